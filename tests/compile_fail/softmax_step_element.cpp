// expected: heed::softmax_step: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/softmax.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<element, 4> q, heed::view<element, 4> k, heed::view<element, 4> v, heed::view<element, 4> out) {
  heed::softmax_step(q, k, v, out);
}
