// expected: heed::rotary_forward: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/rotary.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<const element, 4> x, heed::view<const int, 1> positions, heed::view<element, 4> out) {
  heed::rotary_forward(x, positions, out);
}
