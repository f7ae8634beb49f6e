// expected: heed::dilated_forward: a mask must be callable as mask(position) -> bool
#include <heed/ops/local/dilated.hpp>

#ifdef HEED_COMPILE_FAIL
constexpr auto mask = [](auto score, auto) { return score; };
#else
constexpr auto mask = [](heed::position at) { return at.q > at.kv; };
#endif

void call(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<float, 4> out) {
  heed::dilated_forward(q, k, v, out, {.step = 2}, mask);
}
