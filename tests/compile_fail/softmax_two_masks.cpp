// expected: heed::softmax_forward: at most one mask; compose masks with &, | and !
#include <heed/softmax.hpp>

void call(heed::view<float, 4> q, heed::view<float, 4> k, heed::view<float, 4> v, heed::view<float, 4> out) {
  const heed::mask_mod even{[](heed::position at) { return at.kv % 2 == 0; }};
#ifdef HEED_COMPILE_FAIL
  heed::softmax_forward(q, k, v, out, {}, heed::causal{}, even);
#else
  heed::softmax_forward(q, k, v, out, {}, heed::causal{} & even);
#endif
}
