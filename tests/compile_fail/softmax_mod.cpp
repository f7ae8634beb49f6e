// expected: heed::softmax_forward: a mod must be callable as mask(position) -> bool or score_mod(score, position) -> score
#include <heed/softmax.hpp>

void call(heed::view<float, 4> q, heed::view<float, 4> k, heed::view<float, 4> v, heed::view<float, 4> out) {
#ifdef HEED_COMPILE_FAIL
  heed::softmax_forward(q, k, v, out, {}, [](float score, int query, int key) { return score + float(query - key); });
#else
  heed::softmax_forward(q, k, v, out, {}, [](float score, heed::position at) { return score + float(at.q - at.kv); });
#endif
}
