// expected: heed::channel_forward: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/local.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<const element, 4> q, heed::view<const element, 4> k, heed::view<const element, 4> v,
          heed::view<element, 4> out) {
  heed::channel_forward(q, k, v, out);
}
