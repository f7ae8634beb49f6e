/// Channel attention from its definition, in double, one group of channels at a time.
#pragma once

#include <heed/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace reference {

using heed::index_t;

/// Inputs [B,H,N,C].
struct channel_attention {
  heed::tensor<double, 4> q, k, v;
  double scale;
};

struct channel_gradients {
  heed::tensor<double, 4> dq, dk, dv;
};

namespace detail {

/// [a][c]: softmax over c of scale sum_n q_na k_nc.
inline std::vector<std::vector<double>> channel_weights(const channel_attention& x, index_t b, index_t h) {
  const index_t C = x.q.extent(3);
  std::vector<std::vector<double>> rows;
  for (index_t a = 0; a < C; ++a) {
    std::vector<double> row;
    for (index_t c = 0; c < C; ++c) {
      row.push_back(0);
      for (index_t n = 0; n < x.q.extent(2); ++n) row.back() += x.scale * x.q(b, h, n, a) * x.k(b, h, n, c);
    }
    const double top = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (double& z : row) sum += z = std::exp(z - top);
    for (double& z : row) z /= sum;
    rows.push_back(row);
  }
  return rows;
}

inline heed::tensor<double, 4> zeros_like(const heed::tensor<double, 4>& t) {
  return heed::tensor<double, 4>({t.extent(0), t.extent(1), t.extent(2), t.extent(3)});
}

}  // namespace detail

inline heed::tensor<double, 4> channel(const channel_attention& x) {
  auto out = detail::zeros_like(x.q);
  for (index_t b = 0; b < x.q.extent(0); ++b)
    for (index_t h = 0; h < x.q.extent(1); ++h) {
      const auto weights = detail::channel_weights(x, b, h);
      for (index_t n = 0; n < x.q.extent(2); ++n)
        for (index_t a = 0; a < x.q.extent(3); ++a)
          for (index_t c = 0; c < x.q.extent(3); ++c)
            out(b, h, n, a) += weights[static_cast<std::size_t>(a)][static_cast<std::size_t>(c)] * x.v(b, h, n, c);
    }
  return out;
}

inline channel_gradients channel_backward(const channel_attention& x, const heed::tensor<double, 4>& dout) {
  channel_gradients g{detail::zeros_like(x.q), detail::zeros_like(x.k), detail::zeros_like(x.v)};
  const index_t N = x.q.extent(2), C = x.q.extent(3);
  for (index_t b = 0; b < x.q.extent(0); ++b)
    for (index_t h = 0; h < x.q.extent(1); ++h) {
      const auto weights = detail::channel_weights(x, b, h);
      for (index_t a = 0; a < C; ++a) {
        const auto& weight = weights[static_cast<std::size_t>(a)];
        std::vector<double> slope(weight.size());
        double mean = 0;
        for (index_t c = 0; c < C; ++c) {
          const auto i = static_cast<std::size_t>(c);
          for (index_t n = 0; n < N; ++n) {
            slope[i] += dout(b, h, n, a) * x.v(b, h, n, c);
            g.dv(b, h, n, c) += weight[i] * dout(b, h, n, a);
          }
          mean += weight[i] * slope[i];
        }
        for (index_t c = 0; c < C; ++c) {
          const auto i = static_cast<std::size_t>(c);
          const double by_product = x.scale * weight[i] * (slope[i] - mean);
          for (index_t n = 0; n < N; ++n) {
            g.dq(b, h, n, a) += by_product * x.k(b, h, n, c);
            g.dk(b, h, n, c) += by_product * x.q(b, h, n, a);
          }
        }
      }
    }
  return g;
}

}  // namespace reference
