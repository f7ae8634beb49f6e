// expected: heed::slot_gates_forward: logits must be float, double, heed::bfloat16 or heed::float16
#include <heed/linear.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<const element, 4> f, heed::view<float, 4> s, heed::view<float, 4> g) {
  heed::slot_gates_forward(f, s, g);
}
