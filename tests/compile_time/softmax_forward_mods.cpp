#include <heed/softmax.hpp>

void call(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<float, 4> out, heed::view<const float, 1> slopes) {
  heed::softmax_forward(q, k, v, out, {.softcap = 50}, heed::causal{},
                        [=](auto score, auto at) { return score - slopes[at.h] * heed::to_real(score, at.q - at.kv); });
}
