// expected: heed::rotary_positions: a view of positions must be [N] or [B,N]
#include <heed/rotary.hpp>

#ifdef HEED_COMPILE_FAIL
constexpr int rank = 3;
#else
constexpr int rank = 2;
#endif

void call(heed::view<const float, 4> x, heed::view<const int, rank> positions, heed::view<float, 4> out) {
  heed::rotary_forward(x, positions, out);
}
