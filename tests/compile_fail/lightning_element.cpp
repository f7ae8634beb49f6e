// expected: heed::lightning_forward: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/linear.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<const element, 4> q, heed::view<const element, 4> k, heed::view<const element, 4> v,
          heed::view<const float, 1> slopes, heed::view<element, 4> out) {
  heed::lightning_forward(q, k, v, slopes, out);
}
