/// Rotary positions from the definition, in double.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <cmath>
#include <functional>

namespace reference {

struct rotary_arguments {
  double base = 10000;
  heed::index_t features = -1;  // all
  bool interleaved = false;
  bool inverse = false;
};

/// y_a = x_a cos phi - x_b sin phi, y_b = x_b cos phi + x_a sin phi, phi = position(b, i) base^(-2t/R)
template <class S>
heed::tensor<double, 4> rotary(const heed::view<const S, 4>& x,
                               const std::function<double(heed::index_t, heed::index_t)>& position,
                               const rotary_arguments& arguments = {}) {
  const heed::index_t D = x.extent(3), R = arguments.features < 0 ? D : arguments.features;
  heed::tensor<double, 4> y({x.extent(0), x.extent(1), x.extent(2), D});
  for (heed::index_t b = 0; b < x.extent(0); ++b)
    for (heed::index_t h = 0; h < x.extent(1); ++h)
      for (heed::index_t i = 0; i < x.extent(2); ++i) {
        for (heed::index_t d = R; d < D; ++d) y(b, h, i, d) = static_cast<double>(x(b, h, i, d));
        for (heed::index_t t = 0; t < R / 2; ++t) {
          const heed::index_t first = arguments.interleaved ? 2 * t : t;
          const heed::index_t second = arguments.interleaved ? 2 * t + 1 : t + R / 2;
          const double theta = std::pow(arguments.base, -2.0 * static_cast<double>(t) / static_cast<double>(R));
          const double phi = position(b, i) * theta * (arguments.inverse ? -1 : 1);
          const auto a = static_cast<double>(x(b, h, i, first)), c = static_cast<double>(x(b, h, i, second));
          y(b, h, i, first) = a * std::cos(phi) - c * std::sin(phi);
          y(b, h, i, second) = c * std::cos(phi) + a * std::sin(phi);
        }
      }
  return y;
}

}  // namespace reference
