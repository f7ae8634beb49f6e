/// Random problems of FAST.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/fastmax.hpp"

#include <heed/ops/linear/fastmax.hpp>

#include <algorithm>
#include <cmath>
#include <optional>

namespace linear_test {

using heed::fastmax_norm;
using heed::fastmax_options;

struct fastmax_shape {
  index_t B = 1, H = 1, G = 1, N = 1, D = 8, E = 8;
  std::optional<index_t> M{};  // N

  index_t keys() const { return M.value_or(N); }
};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct fastmax_problem {
  using T = heed::accumulator_t<S>;

  explicit fastmax_problem(const fastmax_shape& s, int p = 2, index_t sequences = 0) {
    support::random_engine random(3);
    const auto unset = [](const auto& like) {
      return tensor<S, 4>::full({like.extent(0), like.extent(1), like.extent(2), like.extent(3)},
                                support::quiet_nan<S>);
    };
    q = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.D}, random);
    k = support::normal_tensor<S, 4>({s.B, s.G, s.keys(), s.D}, random);
    v = support::normal_tensor<S, 4>({s.B, s.G, s.keys(), s.E}, random);
    dout = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.E}, random);
    out = unset(dout);
    dq = unset(q);
    dk = unset(k);
    dv = unset(v);
    denominator = tensor<T, 3>::full({s.B, s.H, s.N}, support::quiet_nan<T>);
    query_norms = tensor<T, 2>({s.B, s.H});
    key_norms = tensor<T, 2>({s.B, s.G});
    state = tensor<T, 4>::full({sequences > 0 ? sequences : s.B, s.G, heed::fastmax_features(s.D, p), s.E + 1},
                               support::quiet_nan<T>);
  }

  /// Options of these, with norms if they want some.
  fastmax_options<S> options(int p, fastmax_norm norm, bool causal) {
    fastmax_options<S> o;
    o.p = p;
    o.norm = norm;
    o.causal = causal;
    // Weights of p = 1 may add up to nothing where products are large.
    if (p == 1) o.tau = 8 * std::sqrt(static_cast<double>(q.extent(3)));
    if (norm == fastmax_norm::maxnorm) {
      heed::fastmax_norms<S>(std::as_const(q).all(), query_norms);
      heed::fastmax_norms<S>(std::as_const(k).all(), key_norms);
      o.query_norms = query_norms;
      o.key_norms = key_norms;
    }
    return o;
  }

  tensor<S, 4> q, k, v, out, dout, dq, dk, dv;
  tensor<T, 3> denominator;
  tensor<T, 2> query_norms, key_norms;
  tensor<T, 4> state;
};

/// The definition of a call without an initial state.
template <class S>
reference::fastmax definition(const fastmax_problem<S>& p, const fastmax_options<S>& options) {
  reference::fastmax a;
  a.q = reference::in_double(p.q);
  a.k = reference::in_double(p.k);
  a.v = reference::in_double(p.v);
  a.p = options.p;
  a.tau = options.tau.or_default(std::sqrt(static_cast<double>(p.q.extent(3))));
  a.limit = options.limit;
  a.norm = static_cast<reference::fastmax_norm>(options.norm);
  a.centre = options.centre;
  a.causal = options.causal;
  a.query_norms = reference::in_double(options.query_norms);
  a.key_norms = reference::in_double(options.key_norms);
  if (options.q_offset.given()) a.q_offset = options.q_offset.or_default(0);
  a.cu_seqlens = offsets_of(options.cu_seqlens);
  return a;
}

template <class A, class S>
void solve_on(fastmax_problem<S>& p, fastmax_options<S> options) {
  options.denominator = p.denominator;
  heed::detail::fastmax_forward_on<A, S>(p.q, p.k, p.v, p.out, options);
}

template <class A, class S>
double error_on(fastmax_problem<S>& p, fastmax_options<S> options) {
  using T = heed::accumulator_t<S>;
  const reference::fastmax_result expected = reference::solve_fastmax(definition(p, options));
  solve_on<A, S>(p, options);
  double worst = worse(error<S>(p.out, expected.out), error<T>(p.denominator, expected.denominator));
  // With a state, by moments whatever the size.
  std::fill(p.out.begin(), p.out.end(), support::quiet_nan<S>);
  options.final_state = p.state;
  solve_on<A, S>(p, options);
  worst = worse(worst, worse(error<S>(p.out, expected.out), error<T>(p.denominator, expected.denominator)));
  return worse(worst, error<T>(p.state, expected.moments));
}
template <class S>
double error_of(fastmax_problem<S>& p, const fastmax_options<S>& options) {
  return error_on<heed::default_arch, S>(p, options);
}

template <class S>
heed::fastmax_backward_options<S> backward_options(const fastmax_options<S>& forward) {
  heed::fastmax_backward_options<S> o;
  o.p = forward.p;
  o.tau = forward.tau;
  o.norm = forward.norm;
  o.limit = forward.limit;
  o.centre = forward.centre;
  o.query_norms = forward.query_norms;
  o.key_norms = forward.key_norms;
  o.causal = forward.causal;
  o.chunk = forward.chunk;
  o.q_offset = forward.q_offset;
  o.cu_seqlens = forward.cu_seqlens;
  o.executor = forward.executor;
  return o;
}

template <class S>
void differentiate(fastmax_problem<S>& p, const fastmax_options<S>& options) {
  solve_on<heed::default_arch, S>(p, options);
  heed::fastmax_backward(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.dq, p.dk, p.dv, backward_options(options));
}
template <class S>
double gradient_error_of(fastmax_problem<S>& p, const fastmax_options<S>& options) {
  const reference::fastmax_gradients expected =
      reference::fastmax_backward(definition(p, options), reference::in_double(p.dout));
  const auto worst = [&] {
    constexpr double allowed = gradient_tolerance<S>;
    return worse(error<S>(p.dq, expected.dq, allowed),
                 worse(error<S>(p.dk, expected.dk, allowed), error<S>(p.dv, expected.dv, allowed)));
  };
  differentiate(p, options);
  const double by_size = worst();
  for (auto* t : {&p.dq, &p.dk, &p.dv}) std::fill(t->begin(), t->end(), support::quiet_nan<S>);
  // With a state, by moments whatever the size.
  heed::fastmax_backward_options<S> back = backward_options(options);
  const tensor<heed::accumulator_t<S>, 4> zeros(
      {p.state.extent(0), p.state.extent(1), p.state.extent(2), p.state.extent(3)});
  back.initial_state = zeros;
  heed::fastmax_backward(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.dq, p.dk, p.dv, back);
  return worse(by_size, worst());
}

inline constexpr fastmax_norm fastmax_norms_of[] = {fastmax_norm::none, fastmax_norm::standardize,
                                                    fastmax_norm::maxnorm};

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::fastmax_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::fastmax_forward_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::fastmax_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::fastmax_backward_on<heed::default_arch, heed::bfloat16>);
