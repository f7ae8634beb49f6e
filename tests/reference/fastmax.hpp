/// FAST from its definition, in double, one pair of query and key at a time.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "reference/recurrence.hpp"

namespace reference {

enum class fastmax_norm { none, standardize, maxnorm };

/// With x^ = x after its norm, s_ij = q^_i . k^_j / tau and w_ij = 1 + s_ij (+ s_ij^2 / 2 if p = 2), over the keys j
/// that query i sees, all or j <= i + q_offset:
///     out_i = sum_j w_ij v_j / sum_j w_ij,   0 where there is nothing to divide by.
struct fastmax {
  heed::tensor<double, 4> q, k, v;  // [B,H,N,D], [B,G,M,D], [B,G,M,E]
  int p = 2;
  double tau = 1, limit = 1;
  fastmax_norm norm = fastmax_norm::none;
  bool centre = true, causal = false;
  heed::tensor<double, 2> query_norms, key_norms;  // of maxnorm
  std::optional<index_t> q_offset;                 // M - N
  std::vector<index_t> cu_seqlens;
};

struct fastmax_result {
  heed::tensor<double, 4> out;
  heed::tensor<double, 3> denominator;
  heed::tensor<double, 4> moments;  // [sequences,G,F,E+1]: of all keys
};

struct fastmax_gradients {
  heed::tensor<double, 4> dq, dk, dv;
};

namespace detail {

/// A row after its norm, and what it was multiplied by.
struct normed_row {
  std::vector<double> x;
  double factor = 1;
};
inline normed_row normed(const fastmax& a, const heed::tensor<double, 4>& t, const heed::tensor<double, 2>& norms,
                         index_t b, index_t h, index_t i) {
  const index_t D = t.extent(3);
  normed_row row{std::vector<double>(static_cast<std::size_t>(D)), 1};
  double mean = 0, variance = 0;
  for (index_t d = 0; d < D; ++d) row.x[static_cast<std::size_t>(d)] = t(b, h, i, d);
  for (const double y : row.x) mean += y / static_cast<double>(D);
  for (const double y : row.x) variance += (y - mean) * (y - mean) / static_cast<double>(D);
  if (a.norm == fastmax_norm::standardize) row.factor = 1 / std::sqrt(variance + 1e-6);
  if (a.norm == fastmax_norm::maxnorm) row.factor = a.limit / norms(b, h);
  const bool centred = a.norm == fastmax_norm::standardize || (a.norm == fastmax_norm::maxnorm && a.centre);
  for (double& y : row.x) y = (y - (centred ? mean : 0)) * row.factor;
  return row;
}

/// From the gradient by the normed row to that by the row.
inline void through_norm(const fastmax& a, const normed_row& row, std::vector<double>& gradient) {
  const auto D = static_cast<double>(row.x.size());
  const bool centred = a.norm == fastmax_norm::standardize || (a.norm == fastmax_norm::maxnorm && a.centre);
  double mean = 0, along = 0;
  for (std::size_t d = 0; d < row.x.size(); ++d) {
    if (centred) mean += gradient[d] / D;
    if (a.norm == fastmax_norm::standardize) along += gradient[d] * row.x[d] / D;
  }
  for (std::size_t d = 0; d < row.x.size(); ++d) gradient[d] = row.factor * (gradient[d] - mean - along * row.x[d]);
}

/// f(batch, head, g, query, keys [first, end) that it sees)
template <class F>
void for_fastmax_rows(const fastmax& a, const F& f) {
  const bool packed = !a.cu_seqlens.empty();
  const index_t sequences = packed ? static_cast<index_t>(a.cu_seqlens.size()) - 1 : a.q.extent(0);
  for (index_t s = 0; s < sequences; ++s) {
    const index_t first = packed ? a.cu_seqlens[static_cast<std::size_t>(s)] : 0;
    const index_t keys = (packed ? a.cu_seqlens[static_cast<std::size_t>(s + 1)] : a.k.extent(2)) - first;
    const index_t queries = packed ? keys : a.q.extent(2), offset = a.q_offset.value_or(keys - queries);
    for (index_t h = 0; h < a.q.extent(1); ++h)
      for (index_t i = 0; i < queries; ++i)
        f(packed ? 0 : s, h, h / (a.q.extent(1) / a.k.extent(1)), first + i, first,
          first + (a.causal ? std::clamp<index_t>(i + offset + 1, 0, keys) : keys));
  }
}

inline double product(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

}  // namespace detail

inline fastmax_result solve_fastmax(const fastmax& a) {
  const index_t E = a.v.extent(3), D = a.q.extent(3), F = 1 + D + (a.p == 2 ? D * (D + 1) / 2 : 0);
  const bool packed = !a.cu_seqlens.empty();
  const index_t sequences = packed ? static_cast<index_t>(a.cu_seqlens.size()) - 1 : a.q.extent(0);
  fastmax_result r{heed::tensor<double, 4>({a.q.extent(0), a.q.extent(1), a.q.extent(2), E}),
                   heed::tensor<double, 3>({a.q.extent(0), a.q.extent(1), a.q.extent(2)}),
                   heed::tensor<double, 4>({sequences, a.k.extent(1), F, E + 1})};
  detail::for_fastmax_rows(a, [&](index_t b, index_t h, index_t g, index_t i, index_t first, index_t end) {
    const detail::normed_row q = detail::normed(a, a.q, a.query_norms, b, h, i);
    double& den = r.denominator(b, h, i);
    for (index_t j = first; j < end; ++j) {
      const double s = detail::product(q.x, detail::normed(a, a.k, a.key_norms, b, g, j).x) / a.tau;
      const double w = 1 + s + (a.p == 2 ? s * s / 2 : 0);
      den += w;
      for (index_t e = 0; e < E; ++e) r.out(b, h, i, e) += w * a.v(b, g, j, e);
    }
    for (index_t e = 0; e < E; ++e) r.out(b, h, i, e) = den == 0 ? 0 : r.out(b, h, i, e) / den;
  });
  for (index_t s = 0; s < sequences; ++s)
    for (index_t g = 0; g < a.k.extent(1); ++g) {
      const auto n = static_cast<std::size_t>(s);
      for (index_t j = packed ? a.cu_seqlens[n] : 0; j < (packed ? a.cu_seqlens[n + 1] : a.k.extent(2)); ++j) {
        const index_t b = packed ? 0 : s;
        const std::vector<double> x = detail::normed(a, a.k, a.key_norms, b, g, j).x;
        std::vector<double> features{1};
        for (const double y : x) features.push_back(y / std::sqrt(a.tau));
        for (std::size_t c = 0; c < x.size() && a.p == 2; ++c)
          for (std::size_t d = c; d < x.size(); ++d)
            features.push_back(x[c] * x[d] / a.tau * (c == d ? std::sqrt(0.5) : 1));
        for (index_t f = 0; f < F; ++f)
          for (index_t e = 0; e <= E; ++e)
            r.moments(s, g, f, e) += features[static_cast<std::size_t>(f)] * (e < E ? a.v(b, g, j, e) : 1);
      }
    }
  return r;
}

/// Gradients of sum(dout * out); norms of maxnorm are constants.
inline fastmax_gradients fastmax_backward(const fastmax& a, const heed::tensor<double, 4>& dout) {
  const index_t E = a.v.extent(3), D = a.q.extent(3);
  const fastmax_result r = solve_fastmax(a);
  fastmax_gradients gradients{zeros_like(a.q), zeros_like(a.k), zeros_like(a.v)};
  detail::for_fastmax_rows(a, [&](index_t b, index_t h, index_t g, index_t i, index_t first, index_t end) {
    const double den = r.denominator(b, h, i);
    if (den == 0) return;
    const detail::normed_row q = detail::normed(a, a.q, a.query_norms, b, h, i);
    double mean = 0;
    for (index_t e = 0; e < E; ++e) mean += dout(b, h, i, e) * r.out(b, h, i, e);
    std::vector<double> dq(static_cast<std::size_t>(D));
    for (index_t j = first; j < end; ++j) {
      const detail::normed_row k = detail::normed(a, a.k, a.key_norms, b, g, j);
      const double s = detail::product(q.x, k.x) / a.tau, w = 1 + s + (a.p == 2 ? s * s / 2 : 0);
      double dw = -mean;
      for (index_t e = 0; e < E; ++e) {
        dw += dout(b, h, i, e) * a.v(b, g, j, e);
        gradients.dv(b, g, j, e) += w * dout(b, h, i, e) / den;
      }
      const double ds = (a.p == 2 ? 1 + s : 1) * dw / den / a.tau;
      std::vector<double> dk(static_cast<std::size_t>(D));
      for (std::size_t d = 0; d < dq.size(); ++d) {
        dq[d] += ds * k.x[d];
        dk[d] = ds * q.x[d];
      }
      detail::through_norm(a, k, dk);
      for (std::size_t d = 0; d < dk.size(); ++d) gradients.dk(b, g, j, static_cast<index_t>(d)) += dk[d];
    }
    detail::through_norm(a, q, dq);
    for (std::size_t d = 0; d < dq.size(); ++d) gradients.dq(b, h, i, static_cast<index_t>(d)) = dq[d];
  });
  return gradients;
}

}  // namespace reference
