// expected: heed::ring_forward: mods are at most one mask(position) -> bool, and score_mod(score, position) -> score
#include <heed/core/in_process.hpp>
#include <heed/ring.hpp>

void call(heed::in_process_transport& ranks, heed::view<float, 4> q, heed::view<float, 4> k, heed::view<float, 4> v,
          heed::view<float, 4> out, const heed::token_layout& layout) {
#ifdef HEED_COMPILE_FAIL
  heed::ring_forward(ranks, q, k, v, out, {.layout = layout}, heed::causal{}, heed::window(3, 0));
#else
  heed::ring_forward(ranks, q, k, v, out, {.layout = layout}, heed::causal{} & heed::window(3, 0));
#endif
}
