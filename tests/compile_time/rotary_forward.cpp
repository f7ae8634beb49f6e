#include <heed/rotary.hpp>

void call(heed::view<const float, 4> x, heed::view<const int, 1> positions, heed::view<float, 4> out) {
  heed::rotary_forward(x, positions, out);
}
