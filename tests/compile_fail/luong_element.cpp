// expected: heed::luong_dot_forward: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/ops/local/luong_dot.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<const element, 3> h_t, heed::view<const element, 3> h_s, heed::view<element, 3> out) {
  heed::luong_dot_forward(h_t, h_s, out);
}
