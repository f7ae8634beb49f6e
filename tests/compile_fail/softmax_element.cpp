// expected: heed::softmax_forward: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/softmax.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = heed::bfloat16;
#endif

void call(heed::view<element, 4> q, heed::view<element, 4> k, heed::view<element, 4> v, heed::view<element, 4> out) {
  heed::softmax_forward(q, k, v, out);
}
