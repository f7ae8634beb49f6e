/// Efficient attention from its definition, in double: rho_q(Q) (rho_k(K)^T V), one head at a time.
#pragma once

#include <heed/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace reference {

using heed::index_t;

/// Inputs in double; not `softmax`: mode scaling.
struct efficient_attention {
  heed::tensor<double, 4> q, k, v;
  bool softmax = true;
  std::vector<index_t> kv_lengths{};  // M

  index_t keys(index_t b) const { return kv_lengths.empty() ? k.extent(2) : kv_lengths[static_cast<std::size_t>(b)]; }
};

/// The result, and how large its rounding errors may be in units of the accumulator's roundoff:
///     out_noise = (8 + A + sqrt(D) + sqrt(64 + M / 64)) sum_d |rho_q|_d sum_j |rho_k|_jd |v_j|
/// A: what the maximum of its row or column exceeds an element by, the most that it does; 0 in mode scaling.
struct efficient_result {
  heed::tensor<double, 4> out, out_noise;    // [B,H,N,E]
  heed::tensor<double, 3> key_max, key_sum;  // [B,G,D]
};

struct efficient_gradients {
  heed::tensor<double, 4> dq, dk, dv;
};

namespace detail {

/// Features of the rows of one head, [row][D].
using feature_rows = std::vector<std::vector<double>>;

inline feature_rows rows_of(const heed::tensor<double, 4>& t, index_t b, index_t h, index_t count) {
  feature_rows rows;
  for (index_t i = 0; i < count; ++i) {
    rows.emplace_back();
    for (index_t d = 0; d < t.extent(3); ++d) rows.back().push_back(t(b, h, i, d));
  }
  return rows;
}

inline feature_rows transposed(const feature_rows& x, std::size_t columns) {
  feature_rows t(columns, std::vector<double>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t d = 0; d < columns; ++d) t[d][i] = x[i][d];
  return t;
}

/// Of numbers that are all -inf, or of none: zeros.
inline void softmax_of(std::vector<double>& x, double& top, double& sum, double& spread) {
  top = -std::numeric_limits<double>::infinity();
  sum = 0;
  for (const double value : x) top = std::max(top, value);
  for (double& value : x) {
    if (value > -std::numeric_limits<double>::infinity()) spread = std::max(spread, top - value);
    value = top == -std::numeric_limits<double>::infinity() ? 0 : std::exp(value - top);
    sum += value;
  }
  for (double& value : x)
    if (sum > 0) value /= sum;
}

/// One head: its features, and what the softmaxes found.
struct efficient_head {
  feature_rows q, k, v;
  std::vector<double> key_max, key_sum;
  double spread = 0;

  efficient_head(const efficient_attention& x, index_t b, index_t h) {
    const index_t g = h / (x.q.extent(1) / x.k.extent(1)), keys = x.keys(b);
    const auto D = static_cast<std::size_t>(x.q.extent(3));
    q = rows_of(x.q, b, h, x.q.extent(2));
    k = rows_of(x.k, b, g, keys);
    v = rows_of(x.v, b, g, keys);
    key_max.resize(D);
    key_sum.resize(D);
    if (x.softmax) {
      double top = 0, sum = 0;
      for (auto& row : q) softmax_of(row, top, sum, spread);
      feature_rows columns = transposed(k, D);
      for (std::size_t d = 0; d < D; ++d) softmax_of(columns[d], key_max[d], key_sum[d], spread);
      k = transposed(columns, static_cast<std::size_t>(keys));
      return;
    }
    for (feature_rows* rows : {&q, &k})
      for (auto& row : *rows)
        for (double& value : row) value /= std::sqrt(static_cast<double>(keys));
  }

  /// Of row i: sum_d rho_q[i][d] sum_j rho_k[j][d] v[j], or that of magnitudes.
  std::vector<double> out(std::size_t i, const feature_rows& context, bool magnitudes) const {
    std::vector<double> sum(context[0].size());
    for (std::size_t d = 0; d < q[i].size(); ++d)
      for (std::size_t e = 0; e < sum.size(); ++e)
        sum[e] += (magnitudes ? std::fabs(q[i][d]) : q[i][d]) * context[d][e];
    return sum;
  }
  /// [D][E]: sum_j rho_k[j][d] v[j][e], or that of magnitudes.
  feature_rows context(std::size_t value_features, bool magnitudes) const {
    feature_rows sum(key_max.size(), std::vector<double>(value_features));
    for (std::size_t j = 0; j < k.size(); ++j)
      for (std::size_t d = 0; d < sum.size(); ++d)
        for (std::size_t e = 0; e < value_features; ++e) {
          const double term = k[j][d] * v[j][e];
          sum[d][e] += magnitudes ? std::fabs(term) : term;
        }
    return sum;
  }
};

/// The gradient by what went into the softmax of x, given that by x: x_i (g_i - sum x g).
inline void through_softmax(const std::vector<double>& x, std::vector<double>& gradient) {
  double mean = 0;
  for (std::size_t i = 0; i < x.size(); ++i) mean += x[i] * gradient[i];
  for (std::size_t i = 0; i < x.size(); ++i) gradient[i] = x[i] * (gradient[i] - mean);
}

}  // namespace detail

inline efficient_result efficient(const efficient_attention& x) {
  const index_t B = x.q.extent(0), H = x.q.extent(1), N = x.q.extent(2), D = x.q.extent(3), E = x.v.extent(3);
  efficient_result result{heed::tensor<double, 4>({B, H, N, E}), heed::tensor<double, 4>({B, H, N, E}),
                          heed::tensor<double, 3>({B, x.k.extent(1), D}),
                          heed::tensor<double, 3>({B, x.k.extent(1), D})};
  for (index_t b = 0; b < B; ++b)
    for (index_t h = 0; h < H; ++h) {
      const detail::efficient_head head(x, b, h);
      const auto M = static_cast<double>(x.k.extent(2));
      const double factor = 8 + head.spread + std::sqrt(static_cast<double>(D)) + std::sqrt(64 + M / 64);
      for (index_t d = 0; d < D; ++d) {
        const index_t g = h / (H / x.k.extent(1));
        result.key_max(b, g, d) = head.key_max[static_cast<std::size_t>(d)];
        result.key_sum(b, g, d) = head.key_sum[static_cast<std::size_t>(d)];
      }
      const auto context = head.context(static_cast<std::size_t>(E), false);
      const auto magnitudes = head.context(static_cast<std::size_t>(E), true);
      for (index_t i = 0; i < N; ++i) {
        const auto row = head.out(static_cast<std::size_t>(i), context, false);
        const auto size = head.out(static_cast<std::size_t>(i), magnitudes, true);
        for (index_t e = 0; e < E; ++e) {
          result.out(b, h, i, e) = row[static_cast<std::size_t>(e)];
          result.out_noise(b, h, i, e) = factor * size[static_cast<std::size_t>(e)];
        }
      }
    }
  return result;
}

inline efficient_gradients efficient_backward(const efficient_attention& x, const heed::tensor<double, 4>& dout) {
  const auto zeros = [](const heed::tensor<double, 4>& t) {
    return heed::tensor<double, 4>({t.extent(0), t.extent(1), t.extent(2), t.extent(3)});
  };
  efficient_gradients g{zeros(x.q), zeros(x.k), zeros(x.v)};
  const auto D = static_cast<std::size_t>(x.q.extent(3)), E = static_cast<std::size_t>(x.v.extent(3));
  for (index_t b = 0; b < x.q.extent(0); ++b)
    for (index_t h = 0; h < x.q.extent(1); ++h) {
      const index_t group = h / (x.q.extent(1) / x.k.extent(1));
      const detail::efficient_head head(x, b, h);
      detail::feature_rows dq(head.q.size(), std::vector<double>(D)), dk(head.k.size(), std::vector<double>(D));
      for (std::size_t i = 0; i < head.q.size(); ++i)
        for (std::size_t j = 0; j < head.k.size(); ++j) {
          double upstream = 0, weight = 0;
          for (std::size_t e = 0; e < E; ++e) upstream += dout(b, h, index_t(i), index_t(e)) * head.v[j][e];
          for (std::size_t d = 0; d < D; ++d) {
            dq[i][d] += upstream * head.k[j][d];
            dk[j][d] += upstream * head.q[i][d];
            weight += head.q[i][d] * head.k[j][d];
          }
          for (std::size_t e = 0; e < E; ++e)
            g.dv(b, group, index_t(j), index_t(e)) += weight * dout(b, h, index_t(i), index_t(e));
        }
      if (x.softmax) {
        for (std::size_t i = 0; i < dq.size(); ++i) detail::through_softmax(head.q[i], dq[i]);
        const auto features = detail::transposed(head.k, D);
        auto slopes = detail::transposed(dk, D);
        for (std::size_t d = 0; d < D; ++d) detail::through_softmax(features[d], slopes[d]);
        dk = detail::transposed(slopes, dk.size());
      } else {
        for (detail::feature_rows* rows : {&dq, &dk})
          for (auto& row : *rows)
            for (double& value : row) value /= std::sqrt(static_cast<double>(x.keys(b)));
      }
      for (std::size_t d = 0; d < D; ++d) {
        for (std::size_t i = 0; i < dq.size(); ++i) g.dq(b, h, index_t(i), index_t(d)) = dq[i][d];
        for (std::size_t j = 0; j < dk.size(); ++j) g.dk(b, group, index_t(j), index_t(d)) += dk[j][d];
      }
    }
  return g;
}

}  // namespace reference
