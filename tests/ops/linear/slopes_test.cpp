#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <heed/ops/linear/slopes.hpp>

#include <cmath>

using heed::index_t;

TEST_CASE("lightning_slopes are those of ALiBi, fading from layer to layer") {
  // Of 8 heads: 1/2, 1/4, .. 1/256. Of 6: every slope of 4, then the first and third of 8.
  const auto eight = heed::lightning_slopes<double>(8), six = heed::lightning_slopes<double>(6);
  for (index_t h = 0; h < 8; ++h) CHECK(eight(h) == Approx(std::exp2(-1.0 - static_cast<double>(h)) * (1 + 1e-5)));
  const double of_six[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
  for (index_t h = 0; h < 6; ++h) CHECK(six(h) == Approx(of_six[h] * (1 + 1e-5)));
  for (index_t layer = 0; layer < 5; ++layer) {
    const auto slopes = heed::lightning_slopes(6, layer, 5);
    for (index_t h = 0; h < 6; ++h)
      CHECK(static_cast<double>(slopes(h)) ==
            Approx(of_six[h] * (1 - static_cast<double>(layer) / 4 + 1e-5)).epsilon(1e-6));
  }
}

TEST_CASE("linear_slopes grow evenly from 0") {
  for (index_t layer = 0; layer < 3; ++layer) {
    const auto slopes = heed::linear_slopes<double>(5, layer, 3);
    for (index_t h = 0; h < 5; ++h)
      CHECK(slopes(h) == Approx(1.6 * static_cast<double>(h) * (1 - static_cast<double>(layer) / 3)).margin(1e-15));
  }
}

TEST_CASE("retention_slopes are decays of 1 - 2^-5, 1 - 2^-6, ..") {
  const auto slopes = heed::retention_slopes<double>(64);
  for (index_t h = 0; h < 40; ++h)
    CHECK(std::exp(-slopes(h)) == Approx(1 - std::exp2(-5 - static_cast<double>(h))).epsilon(1e-15));
  CHECK(slopes(63) == Approx(std::exp2(-68)));
}

TEST_CASE("slopes of no layer are refused, those of no head are none") {
  CHECK(heed::lightning_slopes(0).extent(0) == 0);
  support::check_refusal("lightning_slopes", {"heads"}, [] { heed::lightning_slopes(-1); });
  support::check_refusal("lightning_slopes", {"layer"}, [] { heed::lightning_slopes(4, 3, 3); });
  support::check_refusal("linear_slopes", {"layer"}, [] { heed::linear_slopes(4, -1, 3); });
  support::check_refusal("linear_slopes", {"layers"}, [] { heed::linear_slopes(4, 0, 0); });
  support::check_refusal("retention_slopes", {"heads"}, [] { heed::retention_slopes(-2); });
}
