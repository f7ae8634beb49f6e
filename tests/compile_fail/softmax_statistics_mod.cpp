// expected: heed: softmax statistics: a mod must be callable as mask(position) -> bool or score_mod(score, position) -> score
#include <heed/softmax.hpp>

void call(heed::view<float, 4> q, heed::view<float, 4> k, heed::view<float, 3> lse, heed::view<float, 3> entropy) {
#ifdef HEED_COMPILE_FAIL
  heed::softmax_row_statistics(q, k, lse, {.entropy = entropy}, {},
                               [](float score, int query) { return score * query; });
#else
  heed::softmax_row_statistics(q, k, lse, {.entropy = entropy}, {}, [](float score, heed::position) { return score; });
#endif
}
