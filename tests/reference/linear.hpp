/// Linear attention with feature maps from its definition, in double, one pair of query and key at a time.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "reference/recurrence.hpp"

namespace reference {

enum class feature_map { identity, elu_plus_one, relu, exp, softmax };
inline constexpr feature_map feature_maps[] = {feature_map::identity, feature_map::elu_plus_one, feature_map::relu,
                                               feature_map::exp, feature_map::softmax};

/// With w_ij = scale phi(q_i) . phi(k_j) over the keys j that query i sees, all or j <= i + q_offset:
///     out_i = (sum_j w_ij v_j + scale phi(q_i) R) / (sum_j w_ij + scale phi(q_i) . z + eps)
/// without the divisor unless normalised. R and z are the sums of earlier keys. A query that sees no key, where there are
/// no earlier ones, gives zeros.
struct linear_attention {
  heed::tensor<double, 4> q, k, v;  // [B,H,N,D], [B,G,M,D], [B,G,M,E]
  feature_map map = feature_map::elu_plus_one;
  bool normalise = true, causal = false;
  double scale = 1, eps = 1e-6;
  std::optional<index_t> q_offset;        // M - N
  heed::tensor<double, 4> initial_state;  // R [B,G,D,E], packed [S,G,D,E]; empty: zeros
  heed::tensor<double, 3> initial_sum;    // z [B,G,D], packed [S,G,D]; empty: zeros
  std::vector<index_t> cu_seqlens;        // of queries and keys
};

struct linear_result {
  heed::tensor<double, 4> out;          // [B,H,N,E]
  heed::tensor<double, 3> denominator;  // [B,H,N]
  heed::tensor<double, 4> final_state;  // R of all keys
  heed::tensor<double, 3> final_sum;
};

struct linear_gradients {
  heed::tensor<double, 4> dq, dk, dv;
};

namespace detail {

/// phi of every row.
inline heed::tensor<double, 4> features_of(const heed::tensor<double, 4>& x, feature_map map) {
  heed::tensor<double, 4> f = x;
  const index_t D = x.extent(3);
  for (double* row = f.begin(); row != f.end(); row += D) {
    double sum = 0, top = *std::max_element(row, row + D);
    for (index_t d = 0; d < D; ++d) {
      double& y = row[d];
      switch (map) {
        case feature_map::identity:
          break;
        case feature_map::elu_plus_one:
          y = y > 0 ? y + 1 : std::exp(y);
          break;
        case feature_map::relu:
          y = std::max(y, 0.0);
          break;
        case feature_map::exp:
          y = std::exp(y);
          break;
        case feature_map::softmax:
          sum += y = std::exp(y - top);
          break;
      }
    }
    if (map == feature_map::softmax)
      for (index_t d = 0; d < D; ++d) row[d] /= sum;
  }
  return f;
}

/// The gradient by x, from that by phi(x).
inline heed::tensor<double, 4> through_features(const heed::tensor<double, 4>& x, heed::tensor<double, 4> df,
                                                feature_map map) {
  const heed::tensor<double, 4> f = features_of(x, map);
  const index_t D = x.extent(3);
  for (index_t row = 0; row < x.size(); row += D) {
    double mean = 0;
    for (index_t i = row; i < row + D; ++i) mean += f.data()[i] * df.data()[i];
    for (index_t i = row; i < row + D; ++i) {
      double& y = df.data()[i];
      switch (map) {
        case feature_map::identity:
          break;
        case feature_map::elu_plus_one:
          y *= x.data()[i] > 0 ? 1 : std::exp(x.data()[i]);
          break;
        case feature_map::relu:
          y *= x.data()[i] > 0 ? 1 : 0;
          break;
        case feature_map::exp:
          y *= f.data()[i];
          break;
        case feature_map::softmax:
          y = f.data()[i] * (y - mean);
          break;
      }
    }
  }
  return df;
}

/// A query, and the keys [first_key, end_key) that it sees, of kv head g.
struct linear_row {
  index_t sequence, batch, head, g, query, first_key, end_key;
};

template <class F>
void for_each_row(const linear_attention& a, const F& f) {
  const bool packed = !a.cu_seqlens.empty();
  const index_t sequences = packed ? static_cast<index_t>(a.cu_seqlens.size()) - 1 : a.q.extent(0);
  for (index_t s = 0; s < sequences; ++s) {
    const index_t first = packed ? a.cu_seqlens[static_cast<std::size_t>(s)] : 0;
    const index_t end = packed ? a.cu_seqlens[static_cast<std::size_t>(s + 1)] : a.k.extent(2);
    const index_t queries = packed ? end - first : a.q.extent(2), keys = end - first;
    const index_t offset = a.q_offset.value_or(keys - queries);
    for (index_t h = 0; h < a.q.extent(1); ++h)
      for (index_t i = 0; i < queries; ++i) {
        const index_t seen = a.causal ? std::clamp<index_t>(i + offset + 1, 0, keys) : keys;
        f(linear_row{s, packed ? 0 : s, h, h / (a.q.extent(1) / a.k.extent(1)), first + i, first, first + seen});
      }
  }
}

inline bool sees_nothing(const linear_attention& a, const linear_row& row) {
  return row.first_key == row.end_key && !given(a.initial_state);
}

}  // namespace detail

inline linear_result linear(const linear_attention& a) {
  const index_t B = a.q.extent(0), H = a.q.extent(1), N = a.q.extent(2), D = a.q.extent(3), G = a.k.extent(1),
                E = a.v.extent(3);
  const bool packed = !a.cu_seqlens.empty();
  const index_t sequences = packed ? static_cast<index_t>(a.cu_seqlens.size()) - 1 : B;
  const heed::tensor<double, 4> fq = detail::features_of(a.q, a.map), fk = detail::features_of(a.k, a.map);
  linear_result result{heed::tensor<double, 4>({B, H, N, E}), heed::tensor<double, 3>({B, H, N}),
                       heed::tensor<double, 4>({sequences, G, D, E}), heed::tensor<double, 3>({sequences, G, D})};
  detail::for_each_row(a, [&](const detail::linear_row& row) {
    if (detail::sees_nothing(a, row)) return;
    double& den = result.denominator(row.batch, row.head, row.query);
    const auto out = result.out.all()[row.batch][row.head][row.query];
    for (index_t j = row.first_key; j < row.end_key; ++j) {
      double w = 0;
      for (index_t d = 0; d < D; ++d) w += a.scale * fq(row.batch, row.head, row.query, d) * fk(row.batch, row.g, j, d);
      den += w;
      for (index_t e = 0; e < E; ++e) out[e] += w * a.v(row.batch, row.g, j, e);
    }
    for (index_t d = 0; d < D; ++d) {
      const double f = a.scale * fq(row.batch, row.head, row.query, d);
      if (given(a.initial_sum)) den += f * a.initial_sum(row.sequence, row.g, d);
      if (given(a.initial_state))
        for (index_t e = 0; e < E; ++e) out[e] += f * a.initial_state(row.sequence, row.g, d, e);
    }
    den += a.eps;
    if (a.normalise)
      for (index_t e = 0; e < E; ++e) out[e] /= den;
  });
  for (index_t s = 0; s < sequences; ++s)
    for (index_t g = 0; g < G; ++g)
      for (index_t d = 0; d < D; ++d) {
        if (given(a.initial_sum)) result.final_sum(s, g, d) = a.initial_sum(s, g, d);
        for (index_t e = 0; e < E && given(a.initial_state); ++e)
          result.final_state(s, g, d, e) = a.initial_state(s, g, d, e);
        const auto n = static_cast<std::size_t>(s);
        for (index_t j = packed ? a.cu_seqlens[n] : 0; j < (packed ? a.cu_seqlens[n + 1] : a.k.extent(2)); ++j) {
          const double f = fk(packed ? 0 : s, g, j, d);
          result.final_sum(s, g, d) += f;
          for (index_t e = 0; e < E; ++e) result.final_state(s, g, d, e) += f * a.v(packed ? 0 : s, g, j, e);
        }
      }
  return result;
}

/// Gradients of sum(dout * out), where `stored` is what a normalised forward pass left of out.
inline linear_gradients linear_backward(const linear_attention& a, const heed::tensor<double, 4>& stored,
                                        const heed::tensor<double, 4>& dout) {
  const index_t D = a.q.extent(3), E = a.v.extent(3);
  const heed::tensor<double, 4> fq = detail::features_of(a.q, a.map), fk = detail::features_of(a.k, a.map);
  const linear_result result = linear(a);
  heed::tensor<double, 4> dfq = zeros_like(fq), dfk = zeros_like(fk), dv = zeros_like(a.v);
  detail::for_each_row(a, [&](const detail::linear_row& row) {
    if (detail::sees_nothing(a, row)) return;
    const double den = a.normalise ? result.denominator(row.batch, row.head, row.query) : 1;
    const auto upstream = dout.all()[row.batch][row.head][row.query];
    const auto out = stored.all()[row.batch][row.head][row.query];
    const auto q = fq.all()[row.batch][row.head][row.query];
    double mean = 0;
    for (index_t e = 0; e < E && a.normalise; ++e) mean += upstream[e] * out[e];
    for (index_t j = row.first_key; j < row.end_key; ++j) {
      double w = 0, dw = -mean;
      for (index_t d = 0; d < D; ++d) w += a.scale * q[d] * fk(row.batch, row.g, j, d);
      for (index_t e = 0; e < E; ++e) {
        dw += upstream[e] * a.v(row.batch, row.g, j, e);
        dv(row.batch, row.g, j, e) += w / den * upstream[e];
      }
      for (index_t d = 0; d < D; ++d) {
        dfq(row.batch, row.head, row.query, d) += a.scale * dw / den * fk(row.batch, row.g, j, d);
        dfk(row.batch, row.g, j, d) += a.scale * dw / den * q[d];
      }
    }
    for (index_t d = 0; d < D; ++d) {
      double df = given(a.initial_sum) ? -mean * a.initial_sum(row.sequence, row.g, d) : 0;
      for (index_t e = 0; e < E && given(a.initial_state); ++e)
        df += upstream[e] * a.initial_state(row.sequence, row.g, d, e);
      dfq(row.batch, row.head, row.query, d) += a.scale * df / den;
    }
  });
  return {detail::through_features(a.q, dfq, a.map), detail::through_features(a.k, dfk, a.map), dv};
}

}  // namespace reference
