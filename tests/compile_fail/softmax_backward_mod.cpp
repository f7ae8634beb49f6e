// expected: heed::softmax_backward: a mod must be callable as mask(position) -> bool or score_mod(score, position) -> score, the latter with scores that are heed::dual numbers
#include <heed/softmax.hpp>

void call(heed::view<float, 4> q, heed::view<float, 4> k, heed::view<float, 4> v, heed::view<float, 4> out,
          heed::view<float, 3> lse, heed::view<float, 4> d) {
#ifdef HEED_COMPILE_FAIL
  heed::softmax_backward(q, k, v, out, lse, out, d, d, d, {}, [](float s, heed::position at) { return s + float(at.q); });
#else
  heed::softmax_backward(q, k, v, out, lse, out, d, d, d, {}, [](auto s, heed::position at) { return s + float(at.q); });
#endif
}
