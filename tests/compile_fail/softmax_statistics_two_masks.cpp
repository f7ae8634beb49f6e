// expected: heed: softmax statistics: at most one mask; compose masks with &, | and !
#include <heed/softmax.hpp>

void call(heed::view<float, 4> q, heed::view<float, 4> k, heed::view<float, 3> lse, heed::view<float, 4> weights) {
  const heed::mask_mod even{[](heed::position at) { return at.kv % 2 == 0; }};
#ifdef HEED_COMPILE_FAIL
  heed::softmax_weights(q, k, lse, {}, weights, {}, heed::causal{}, even);
#else
  heed::softmax_weights(q, k, lse, {}, weights, {}, heed::causal{} & even);
#endif
}
