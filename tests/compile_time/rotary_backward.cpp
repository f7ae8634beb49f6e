#include <heed/rotary.hpp>

void call(heed::view<const float, 4> dout, heed::view<const int, 1> positions, heed::view<float, 4> dx) {
  heed::rotary_backward(dout, positions, dx);
}
