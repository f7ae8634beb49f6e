/// Attention to memory slots from its definition, in double: gated slots (GSA), and bounded memory (ABC), which
/// is the quotient that gates express.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "reference/recurrence.hpp"

namespace reference {

/// With a_t = exp(g_t), of each kv head:   K <- K diag(a_t) + k_t s_t^T,   u_t = scale K^T q_t,   p_t = softmax(u_t),
///                                         V <- diag(a_t) V + s_t v_t^T,   out_t = V^T p_t.
struct gated_slots {
  heed::tensor<double, 4> q, k, v;  // [B,H,N,D], [B,G,N,D], [B,G,N,E]
  heed::tensor<double, 4> s, g;     // [B,G,N,S]
  double scale = 1;
  heed::tensor<double, 4> initial_keys, initial_values;  // [B,G,D,S], [B,G,S,E], packed [sequences,..]; empty: zeros
  std::vector<index_t> cu_seqlens;
};

struct gated_slot_result {
  heed::tensor<double, 4> out;                       // [B,H,N,E]
  heed::tensor<double, 4> scores, weights;           // u and p [B,H,N,S]
  heed::tensor<double, 4> final_keys, final_values;  // as the initial ones
};

struct gated_slot_gradients {
  heed::tensor<double, 4> dq, dk, dv, ds, dg, dinitial_keys, dinitial_values;
};

namespace detail {

/// Both walks over the tokens: q reads keys of slots, then the weights read their values.
inline recurrence slot_keys(const gated_slots& a) {
  recurrence r;
  r.q = a.q;
  r.k = a.k;
  r.v = a.s;
  r.value_gate = a.g;
  r.scale = a.scale;
  r.initial_state = a.initial_keys;
  r.cu_seqlens = a.cu_seqlens;
  return r;
}
inline recurrence slot_values(const gated_slots& a, const heed::tensor<double, 4>& weights) {
  recurrence r;
  r.q = weights;
  r.k = a.s;
  r.v = a.v;
  r.key_gate = a.g;
  r.initial_state = a.initial_values;
  r.cu_seqlens = a.cu_seqlens;
  return r;
}

inline void add(heed::tensor<double, 4>& to, const heed::tensor<double, 4>& other) {
  for (index_t i = 0; i < to.size(); ++i) to.data()[i] += other.data()[i];
}

}  // namespace detail

/// Over the last axis.
inline heed::tensor<double, 4> softmax_of_rows(heed::tensor<double, 4> x) {
  const index_t n = x.extent(3);
  for (double* row = x.begin(); row != x.end(); row += n) {
    const double top = *std::max_element(row, row + n);
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += row[i] = std::exp(row[i] - top);
    for (index_t i = 0; i < n; ++i) row[i] /= sum;
  }
  return x;
}

inline gated_slot_result gated_slot(const gated_slots& a) {
  recurrence_result keys = scan(detail::slot_keys(a));
  heed::tensor<double, 4> weights = softmax_of_rows(keys.out);
  recurrence_result values = scan(detail::slot_values(a, weights));
  return {values.out, keys.out, weights, keys.final_state, values.final_state};
}

/// Gradients of sum(dout * out) + sum(dfinal_keys * final_keys) + sum(dfinal_values * final_values).
inline gated_slot_gradients gated_slot_backward(const gated_slots& a, const heed::tensor<double, 4>& dout,
                                                const heed::tensor<double, 4>& dfinal_keys = {},
                                                const heed::tensor<double, 4>& dfinal_values = {}) {
  const heed::tensor<double, 4> p = gated_slot(a).weights;
  const recurrence_gradients values = scan_backward(detail::slot_values(a, p), dout, dfinal_values);
  heed::tensor<double, 4> du = zeros_like(p);
  const index_t S = p.extent(3);
  for (index_t row = 0; row < p.size(); row += S) {
    double mean = 0;
    for (index_t m = row; m < row + S; ++m) mean += p.data()[m] * values.dq.data()[m];
    for (index_t m = row; m < row + S; ++m) du.data()[m] = p.data()[m] * (values.dq.data()[m] - mean);
  }
  const recurrence_gradients keys = scan_backward(detail::slot_keys(a), du, dfinal_keys);
  gated_slot_gradients result{
      keys.dq, keys.dk, values.dv, keys.dv, keys.dvalue_gate, keys.dinitial_state, values.dinitial_state};
  detail::add(result.ds, values.dk);
  detail::add(result.dg, values.dkey_gate);
  return result;
}

/// With phi = exp(s):   key_t[m] = sum_{j<=t} phi_j[m] k_j / sum_{j<=t} phi_j[m], value_t[m] the same of v,
///                      out_t = sum_m softmax_m(scale q_t . key_t[m]) value_t[m].
struct bounded_memory {
  heed::tensor<double, 4> q, k, v;  // [B,H,N,D], [B,G,N,D], [B,G,N,E]
  heed::tensor<double, 4> s;        // [B,G,N,S]
  double scale = 1;
};

inline heed::tensor<double, 4> bounded_memory_attention(const bounded_memory& a) {
  const index_t B = a.q.extent(0), H = a.q.extent(1), N = a.q.extent(2), D = a.q.extent(3), E = a.v.extent(3),
                S = a.s.extent(3), shared = H / a.k.extent(1);
  heed::tensor<double, 4> out({B, H, N, E});
  for (index_t b = 0; b < B; ++b)
    for (index_t h = 0; h < H; ++h)
      for (index_t t = 0; t < N; ++t) {
        const index_t g = h / shared;
        heed::tensor<double, 4> scores({1, 1, 1, S});
        heed::tensor<double, 2> values({S, E});
        for (index_t m = 0; m < S; ++m) {
          double top = a.s(b, g, 0, m), total = 0;
          for (index_t j = 0; j <= t; ++j) top = std::max(top, a.s(b, g, j, m));
          for (index_t j = 0; j <= t; ++j) total += std::exp(a.s(b, g, j, m) - top);
          for (index_t j = 0; j <= t; ++j) {
            const double share = std::exp(a.s(b, g, j, m) - top) / total;
            for (index_t d = 0; d < D; ++d) scores(0, 0, 0, m) += a.scale * a.q(b, h, t, d) * share * a.k(b, g, j, d);
            for (index_t e = 0; e < E; ++e) values(m, e) += share * a.v(b, g, j, e);
          }
        }
        const heed::tensor<double, 4> p = softmax_of_rows(scores);
        for (index_t m = 0; m < S; ++m)
          for (index_t e = 0; e < E; ++e) out(b, h, t, e) += p(0, 0, 0, m) * values(m, e);
      }
  return out;
}

/// The same memory as gated slots: z_t = log sum_{j<=t} phi_j,  s := exp(s_t - z_t),  g_t = z_{t-1} - z_t,  g_0 = 0.
inline gated_slots as_gated_slots(const bounded_memory& a) {
  gated_slots slots{a.q, a.k, a.v, zeros_like(a.s), zeros_like(a.s), a.scale, {}, {}, {}};
  for (index_t b = 0; b < a.s.extent(0); ++b)
    for (index_t g = 0; g < a.s.extent(1); ++g)
      for (index_t m = 0; m < a.s.extent(3); ++m) {
        double before = -std::numeric_limits<double>::infinity();
        for (index_t t = 0; t < a.s.extent(2); ++t) {
          const double x = a.s(b, g, t, m), high = std::max(before, x), low = std::min(before, x);
          const double z = high + std::log1p(std::exp(low - high));
          slots.s(b, g, t, m) = std::exp(x - z);
          slots.g(b, g, t, m) = t == 0 ? 0 : before - z;
          before = z;
        }
      }
  return slots;
}

struct bounded_memory_gradients {
  heed::tensor<double, 4> dq, dk, dv, ds;
};

/// Through the gated slots: with w the strength and z as above, dz_t = -w_t dw_t - dg_t + dg_{t+1}, whose gradient by
/// s_j is exp(s_j - z_t) for t >= j, and w_j dw_j directly.
inline bounded_memory_gradients bounded_memory_backward(const bounded_memory& a, const heed::tensor<double, 4>& dout) {
  const gated_slots slots = as_gated_slots(a);
  gated_slot_gradients inner = gated_slot_backward(slots, dout);
  const index_t N = a.s.extent(2);
  heed::tensor<double, 4> ds = zeros_like(a.s);
  for (index_t b = 0; b < a.s.extent(0); ++b)
    for (index_t g = 0; g < a.s.extent(1); ++g)
      for (index_t m = 0; m < a.s.extent(3); ++m) {
        double later = 0;  // sum over t > j of dz_t exp(z_j - z_t)
        for (index_t j = N - 1; j >= 0; --j) {
          const double direct = slots.s(b, g, j, m) * inner.ds(b, g, j, m);
          double dz = -direct;
          if (j > 0) dz -= inner.dg(b, g, j, m);
          if (j + 1 < N) {
            dz += inner.dg(b, g, j + 1, m);
            later *= std::exp(slots.g(b, g, j + 1, m));
          }
          later += dz;
          ds(b, g, j, m) = direct + slots.s(b, g, j, m) * later;
        }
      }
  return {inner.dq, inner.dk, inner.dv, ds};
}

}  // namespace reference
