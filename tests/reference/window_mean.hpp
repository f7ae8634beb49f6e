/// Means over the last tokens from their definition, in double.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <cstdint>

namespace reference {

using heed::index_t;

/// x [B,N,D], mask [B,N]
struct window_mean_arguments {
  heed::tensor<double, 3> x;
  heed::tensor<std::uint8_t, 2> mask;
  index_t length;
};

namespace detail {

/// Tokens that count in the window of token i.
inline double window_count(const window_mean_arguments& a, index_t b, index_t i) {
  double count = 0;
  for (index_t l = 0; l < a.length && l <= i; ++l) count += a.mask(b, i - l) != 0 ? 1 : 0;
  return count;
}

}  // namespace detail

inline heed::tensor<double, 3> window_mean(const window_mean_arguments& a) {
  heed::tensor<double, 3> out({a.x.extent(0), a.x.extent(1), a.x.extent(2)});
  for (index_t b = 0; b < a.x.extent(0); ++b)
    for (index_t i = 0; i < a.x.extent(1); ++i) {
      const double count = detail::window_count(a, b, i);
      for (index_t l = 0; l < a.length && l <= i; ++l)
        for (index_t d = 0; a.mask(b, i - l) != 0 && d < a.x.extent(2); ++d) out(b, i, d) += a.x(b, i - l, d) / count;
    }
  return out;
}

inline heed::tensor<double, 3> window_mean_backward(const window_mean_arguments& a,
                                                    const heed::tensor<double, 3>& dout) {
  heed::tensor<double, 3> dx({a.x.extent(0), a.x.extent(1), a.x.extent(2)});
  for (index_t b = 0; b < a.x.extent(0); ++b)
    for (index_t i = 0; i < a.x.extent(1); ++i) {
      const double count = detail::window_count(a, b, i);
      for (index_t l = 0; l < a.length && l <= i; ++l)
        for (index_t d = 0; a.mask(b, i - l) != 0 && d < a.x.extent(2); ++d) dx(b, i - l, d) += dout(b, i, d) / count;
    }
  return dx;
}

}  // namespace reference
