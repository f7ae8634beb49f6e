// expected: heed::ssd_forward: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/linear.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<const element, 4> x, heed::view<const float, 3> dt, heed::view<const float, 1> a,
          heed::view<const element, 4> b, heed::view<const element, 4> c, heed::view<element, 4> y) {
  heed::ssd_forward(x, dt, a, b, c, {}, y);
}
