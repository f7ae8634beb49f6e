// expected: heed::softmax_step: mods are at most one mask(position) -> bool, and score_mod(score, position) -> score
#include <heed/cache.hpp>
#include <heed/softmax.hpp>

void call(heed::view<float, 4> q, const heed::paged_cache<float>& cache, heed::view<float, 4> out) {
#ifdef HEED_COMPILE_FAIL
  heed::softmax_step(q, cache, out, {}, [](float score, int query) { return score * query; });
#else
  heed::softmax_step(q, cache, out, {}, [](float score, heed::position) { return score; });
#endif
}
