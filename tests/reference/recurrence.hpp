/// Gated linear recurrences from their definition, in double, one token at a time, and their gradients from all states.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <vector>

namespace reference {

using heed::index_t;

namespace detail {

template <class T, int Rank>
void copy_as_double(const heed::view<const T, Rank>& from, const heed::view<double, Rank>& to) {
  for (index_t i = 0; i < from.extent(0); ++i) {
    if constexpr (Rank == 1)
      to[i] = static_cast<double>(from[i]);
    else
      copy_as_double<T, Rank - 1>(from[i], to[i]);
  }
}

}  // namespace detail

/// The same numbers. A view of nothing becomes a tensor of nothing.
template <class T, int Rank>
heed::tensor<double, Rank> in_double(const heed::view<T, Rank>& from) {
  if (!from) return {};
  index_t extents[Rank];
  for (int axis = 0; axis < Rank; ++axis) extents[axis] = from.extent(axis);
  heed::tensor<double, Rank> to(extents);
  detail::copy_as_double<std::remove_const_t<T>, Rank>(from, to);
  return to;
}

template <class T, int Rank>
heed::tensor<double, Rank> in_double(const heed::tensor<T, Rank>& from) {
  return in_double(from.all());
}

template <int Rank>
bool given(const heed::tensor<double, Rank>& t) {
  return t.data() != nullptr;
}

inline heed::tensor<double, 4> zeros_like(const heed::tensor<double, 4>& t) {
  return heed::tensor<double, 4>({t.extent(0), t.extent(1), t.extent(2), t.extent(3)});
}

/// [B,G,M] -> [B,G,M,features], or the sum back.
inline heed::tensor<double, 4> for_every_feature(const heed::tensor<double, 3>& gate, index_t features) {
  heed::tensor<double, 4> all({gate.extent(0), gate.extent(1), gate.extent(2), features});
  for (index_t i = 0; i < all.size(); ++i) all.data()[i] = gate.data()[i / features];
  return all;
}
inline heed::tensor<double, 3> sum_of_features(const heed::tensor<double, 4>& all) {
  heed::tensor<double, 3> sum({all.extent(0), all.extent(1), all.extent(2)});
  for (index_t i = 0; i < all.size(); ++i) sum.data()[i / all.extent(3)] += all.data()[i];
  return sum;
}

/// [B,G,..] -> [B,H,..] with head h a copy of head h / (H/G), or the sum back.
inline heed::tensor<double, 4> for_every_query_head(const heed::tensor<double, 4>& t, index_t heads) {
  const index_t r = heads / t.extent(1), size = t.extent(2) * t.extent(3);
  heed::tensor<double, 4> all({t.extent(0), heads, t.extent(2), t.extent(3)});
  for (index_t i = 0; i < all.size(); ++i) all.data()[i] = t.data()[i / size / r * size + i % size];
  return all;
}
inline heed::tensor<double, 4> sum_of_query_heads(const heed::tensor<double, 4>& all, index_t groups) {
  const index_t r = all.extent(1) / groups, size = all.extent(2) * all.extent(3);
  heed::tensor<double, 4> sum({all.extent(0), groups, all.extent(2), all.extent(3)});
  for (index_t i = 0; i < all.size(); ++i) sum.data()[i / size / r * size + i % size] += all.data()[i];
  return sum;
}

/// With R of kv head g, key token t and a = exp(key_gate_t), b = exp(value_gate_t):
///     R <- (a b^T) * R + k_t v_t^T,       out_i = scale R^T q_i after the write of token i + q_offset.
/// A query before the first token gives zeros, one after the last reads the last state. `reverse`: tokens from the last
/// to the first, so a query sees the tokens from its own on. In a packed batch each sequence is alone.
struct recurrence {
  heed::tensor<double, 4> q, k, v;     // [B,H,N,D], [B,G,M,D], [B,G,M,E]
  heed::tensor<double, 4> key_gate;    // log, [B,G,M,D]; empty: 0
  heed::tensor<double, 4> value_gate;  // log, [B,G,M,E]; empty: 0
  double scale = 1;
  heed::tensor<double, 4> initial_state;  // [B,G,D,E], in a packed batch of S sequences [S,G,D,E]; empty: zeros
  std::optional<index_t> q_offset;        // M - N
  std::vector<index_t> cu_seqlens;        // of queries and keys
  bool reverse = false;
};

struct recurrence_result {
  heed::tensor<double, 4> out;          // [B,H,N,E]
  heed::tensor<double, 4> final_state;  // as initial_state
};

/// Gradients of sum(dout * out) + sum(dfinal_state * final_state).
struct recurrence_gradients {
  heed::tensor<double, 4> dq, dk, dv;
  heed::tensor<double, 4> dkey_gate, dvalue_gate;  // [B,G,M,D] and [B,G,M,E], whether there are gates or not
  heed::tensor<double, 4> dinitial_state;
};

namespace detail {

using state = std::vector<double>;  // [D,E]

/// The tokens of one kv head of one sequence, in the order of their writes, and who reads the state after how many.
class walk {
 public:
  walk(const recurrence& r, index_t sequence, index_t head) : r_(r), sequence_(sequence), head_(head) {
    const bool packed = !r.cu_seqlens.empty();
    batch_ = packed ? 0 : sequence;
    const auto s = static_cast<std::size_t>(sequence);
    first_ = packed ? r.cu_seqlens[s] : 0;
    tokens_ = packed ? r.cu_seqlens[s + 1] - first_ : r.k.extent(2);
    const index_t queries = packed ? tokens_ : r.q.extent(2), offset = r.q_offset.value_or(tokens_ - queries);
    readers_.resize(static_cast<std::size_t>(tokens_ + 1));
    for (index_t i = 0; i < queries; ++i) {
      const index_t seen = r.reverse ? tokens_ - (i + offset) : i + offset + 1;
      if (seen > 0) readers_[static_cast<std::size_t>(std::min(seen, tokens_))].push_back(first_ + i);
    }
  }

  index_t batch() const { return batch_; }
  index_t head() const { return head_; }
  index_t sequence() const { return sequence_; }
  index_t tokens() const { return tokens_; }
  /// Where the n-th write finds its token.
  index_t token(index_t n) const { return first_ + (r_.reverse ? tokens_ - 1 - n : n); }

  /// f(query head, query) for all that read the state after n writes.
  template <class F>
  void for_readers(index_t n, const F& f) const {
    const index_t shared = r_.q.extent(1) / r_.k.extent(1);
    for (const index_t i : readers_[static_cast<std::size_t>(n)])
      for (index_t h = head_ * shared; h < (head_ + 1) * shared; ++h) f(h, i);
  }

  state initial() const {
    state R(static_cast<std::size_t>(r_.k.extent(3) * r_.v.extent(3)));
    if (given(r_.initial_state)) std::copy_n(&r_.initial_state(sequence_, head_, 0, 0), R.size(), R.begin());
    return R;
  }

  /// f(d, e, element of R, the factor that token t multiplies it by).
  template <class F>
  void for_elements(index_t t, state& R, const F& f) const {
    const index_t D = r_.k.extent(3), E = r_.v.extent(3);
    state a(static_cast<std::size_t>(D), 1), b(static_cast<std::size_t>(E), 1);
    if (given(r_.key_gate))
      for (index_t d = 0; d < D; ++d) a[static_cast<std::size_t>(d)] = std::exp(r_.key_gate(batch_, head_, t, d));
    if (given(r_.value_gate))
      for (index_t e = 0; e < E; ++e) b[static_cast<std::size_t>(e)] = std::exp(r_.value_gate(batch_, head_, t, e));
    for (index_t d = 0; d < D; ++d)
      for (index_t e = 0; e < E; ++e)
        f(d, e, R[static_cast<std::size_t>(d * E + e)],
          a[static_cast<std::size_t>(d)] * b[static_cast<std::size_t>(e)]);
  }

  void write(index_t t, state& R) const {
    for_elements(t, R, [&](index_t d, index_t e, double& x, double factor) {
      x = factor * x + r_.k(batch_, head_, t, d) * r_.v(batch_, head_, t, e);
    });
  }

 private:
  const recurrence& r_;
  index_t sequence_, head_, batch_ = 0, first_ = 0, tokens_ = 0;
  std::vector<std::vector<index_t>> readers_;
};

inline index_t sequences_of(const recurrence& r) {
  return r.cu_seqlens.empty() ? r.k.extent(0) : static_cast<index_t>(r.cu_seqlens.size()) - 1;
}

template <class F>
void for_each_walk(const recurrence& r, const F& f) {
  for (index_t s = 0; s < sequences_of(r); ++s)
    for (index_t g = 0; g < r.k.extent(1); ++g) f(walk(r, s, g));
}

}  // namespace detail

inline recurrence_result scan(const recurrence& r) {
  const index_t D = r.k.extent(3), E = r.v.extent(3);
  recurrence_result result{heed::tensor<double, 4>({r.q.extent(0), r.q.extent(1), r.q.extent(2), E}),
                           heed::tensor<double, 4>({detail::sequences_of(r), r.k.extent(1), D, E})};
  detail::for_each_walk(r, [&](const detail::walk& w) {
    detail::state R = w.initial();
    for (index_t n = 0;; ++n) {
      w.for_readers(n, [&](index_t h, index_t i) {
        for (index_t d = 0; d < D; ++d)
          for (index_t e = 0; e < E; ++e)
            result.out(w.batch(), h, i, e) +=
                r.scale * r.q(w.batch(), h, i, d) * R[static_cast<std::size_t>(d * E + e)];
      });
      if (n == w.tokens()) break;
      w.write(w.token(n), R);
    }
    std::copy(R.begin(), R.end(), &result.final_state(w.sequence(), w.head(), 0, 0));
  });
  return result;
}

/// dout as out; dfinal_state as final_state, or empty: zeros.
/// With G the gradient by the state after the write of token t:   dk_t = G v_t,  dv_t = G^T k_t,
/// dkey_gate_t[d] = sum_e (a b^T * R_before * G)[d,e],  dvalue_gate_t the same over d,  G <- (a b^T) * G,
/// and each reader adds scale q_i dout_i^T to G and has dq_i = scale R dout_i.
inline recurrence_gradients scan_backward(const recurrence& r, const heed::tensor<double, 4>& dout,
                                          const heed::tensor<double, 4>& dfinal_state = {}) {
  const index_t D = r.k.extent(3), E = r.v.extent(3);
  recurrence_gradients result{zeros_like(r.q), zeros_like(r.k),
                              zeros_like(r.v), zeros_like(r.k),
                              zeros_like(r.v), heed::tensor<double, 4>({detail::sequences_of(r), r.k.extent(1), D, E})};
  detail::for_each_walk(r, [&](const detail::walk& w) {
    const index_t b = w.batch(), g = w.head();
    std::vector<detail::state> states{w.initial()};
    for (index_t n = 0; n < w.tokens(); ++n) {
      states.push_back(states.back());
      w.write(w.token(n), states.back());
    }
    detail::state G(states[0].size());
    if (given(dfinal_state)) std::copy_n(&dfinal_state(w.sequence(), g, 0, 0), G.size(), G.begin());
    for (index_t n = w.tokens();; --n) {
      const detail::state& R = states[static_cast<std::size_t>(n)];
      w.for_readers(n, [&](index_t h, index_t i) {
        for (index_t d = 0; d < D; ++d)
          for (index_t e = 0; e < E; ++e) {
            const auto at = static_cast<std::size_t>(d * E + e);
            result.dq(b, h, i, d) += r.scale * R[at] * dout(b, h, i, e);
            G[at] += r.scale * r.q(b, h, i, d) * dout(b, h, i, e);
          }
      });
      if (n == 0) break;
      const index_t t = w.token(n - 1);
      const detail::state& before = states[static_cast<std::size_t>(n - 1)];
      w.for_elements(t, G, [&](index_t d, index_t e, double& x, double factor) {
        result.dk(b, g, t, d) += x * r.v(b, g, t, e);
        result.dv(b, g, t, e) += x * r.k(b, g, t, d);
        x *= factor;
        result.dkey_gate(b, g, t, d) += x * before[static_cast<std::size_t>(d * E + e)];
        result.dvalue_gate(b, g, t, e) += x * before[static_cast<std::size_t>(d * E + e)];
      });
    }
    std::copy(G.begin(), G.end(), &result.dinitial_state(w.sequence(), g, 0, 0));
  });
  return result;
}

/// Lightning attention, or retention: a constant log gate of -slope[h]. Query heads have states of their own,
/// [B,H,D,E] (packed [S,H,D,E]). `r` has k and v of G heads and no gates.
inline recurrence with_decay(const recurrence& r, const heed::tensor<double, 1>& slope) {
  recurrence own = r;
  own.k = for_every_query_head(r.k, r.q.extent(1));
  own.v = for_every_query_head(r.v, r.q.extent(1));
  own.key_gate = zeros_like(own.k);
  const index_t size = own.k.extent(2) * own.k.extent(3);
  for (index_t i = 0; i < own.key_gate.size(); ++i) own.key_gate.data()[i] = -slope(i / size % own.k.extent(1));
  return own;
}
inline recurrence_result lightning(const recurrence& r, const heed::tensor<double, 1>& slope) {
  return scan(with_decay(r, slope));
}
inline recurrence_gradients lightning_backward(const recurrence& r, const heed::tensor<double, 1>& slope,
                                               const heed::tensor<double, 4>& dout,
                                               const heed::tensor<double, 4>& dfinal_state = {}) {
  recurrence_gradients gradients = scan_backward(with_decay(r, slope), dout, dfinal_state);
  gradients.dk = sum_of_query_heads(gradients.dk, r.k.extent(1));
  gradients.dv = sum_of_query_heads(gradients.dv, r.k.extent(1));
  return gradients;
}

}  // namespace reference
