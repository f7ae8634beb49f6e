/// Random problems of agent attention.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/agent.hpp"
#include "reference/recurrence.hpp"
#include "support/random.hpp"

#include <heed/ops/linear/agent_backward.hpp>
#include <heed/ops/linear/agent_forward.hpp>

namespace linear_test {

using heed::agent_backward_options;
using heed::agent_options;

struct agent_shape {
  index_t B = 1, H = 1, G = 1, N = 1, n = 1, M = 1, D = 8, E = 8;
};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct agent_problem {
  using T = heed::accumulator_t<S>;

  explicit agent_problem(const agent_shape& s, unsigned seed = 1) : random(seed) {
    q = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.D}, random);
    a = support::normal_tensor<S, 4>({s.B, s.H, s.n, s.D}, random);
    k = support::normal_tensor<S, 4>({s.B, s.G, s.M, s.D}, random);
    v = support::normal_tensor<S, 4>({s.B, s.G, s.M, s.E}, random);
    dout = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.E}, random);
    agent_bias = support::normal_tensor<S, 4>({1, s.H, s.n, s.M}, random);
    query_bias = support::normal_tensor<S, 4>({1, s.H, s.N, s.n}, random);
    out = poison<S>({s.B, s.H, s.N, s.E});
    agent_values = poison<S>({s.B, s.H, s.n, s.E});
    agent_lse = tensor<T, 3>::full({s.B, s.H, s.n}, support::quiet_nan<T>);
    lse = tensor<T, 3>::full({s.B, s.H, s.N}, support::quiet_nan<T>);
    dq = poison<S>({s.B, s.H, s.N, s.D});
    da = poison<S>({s.B, s.H, s.n, s.D});
    dk = poison<S>({s.B, s.G, s.M, s.D});
    dv = poison<S>({s.B, s.G, s.M, s.E});
    dagent_bias = poison<S>({1, s.H, s.n, s.M});
    dquery_bias = poison<S>({1, s.H, s.N, s.n});
  }

  support::random_engine random;
  tensor<S, 4> q, a, k, v, dout, agent_bias, query_bias, out, agent_values;
  tensor<T, 3> agent_lse, lse;
  tensor<S, 4> dq, da, dk, dv, dagent_bias, dquery_bias;

 private:
  template <class X>
  static tensor<X, 4> poison(const index_t (&extents)[4]) {
    return tensor<X, 4>::full(extents, support::quiet_nan<X>);
  }
};

/// What backward is told of a forward call. `p` gives the biases' gradients.
template <class S>
agent_backward_options<S> backward_options(agent_problem<S>& p, const agent_options<S>& o) {
  agent_backward_options<S> b{.scale = o.scale, .agent_scale = o.agent_scale};
  b.agent_bias = o.agent_bias;
  b.query_bias = o.query_bias;
  if (o.agent_bias) b.dagent_bias = p.dagent_bias;
  if (o.query_bias) b.dquery_bias = p.dquery_bias;
  b.kv_lengths = o.kv_lengths;
  b.executor = o.executor;
  return b;
}

template <class A, class S>
void solve_on(agent_problem<S>& p, agent_options<S> options = {}) {
  options.agent_values = p.agent_values;
  options.agent_lse = p.agent_lse;
  options.lse = p.lse;
  heed::detail::agent_forward_on<A, S>(p.q, p.a, p.k, p.v, p.out, options);
  heed::detail::agent_backward_on<A, S>(p.q, p.a, p.k, p.v, p.out, p.agent_values, p.agent_lse, p.lse, p.dout, p.dq,
                                        p.da, p.dk, p.dv, backward_options(p, options));
}

template <class S>
void solve(agent_problem<S>& p, const agent_options<S>& options = {}) {
  solve_on<heed::default_arch, S>(p, options);
}

template <class S>
reference::agent_attention definition(const agent_problem<S>& p, const agent_options<S>& o) {
  reference::agent_attention x{reference::in_double(p.q), reference::in_double(p.a), reference::in_double(p.k),
                               reference::in_double(p.v)};
  if (o.scale.given()) x.scale = o.scale.or_default(0);
  if (o.agent_scale.given()) x.agent_scale = o.agent_scale.or_default(0);
  const auto function = [](const view<const S, 4>& bias) {
    return [bias](int, int h, index_t i, index_t j) { return static_cast<double>(bias(0, h, i, j)); };
  };
  if (o.agent_bias) {
    x.agent_bias = function(o.agent_bias);
    x.agent_bias_extents = {1, p.q.extent(1), p.a.extent(2), p.k.extent(2)};
  }
  if (o.query_bias) {
    x.query_bias = function(o.query_bias);
    x.query_bias_extents = {1, p.q.extent(1), p.q.extent(2), p.a.extent(2)};
  }
  x.kv_lengths = offsets_of(o.kv_lengths);
  return x;
}

/// Between the two softmaxes numbers are rounded to storage once more.
template <class S>
inline constexpr double roundings = sizeof(S) == 2 ? 2 : 1;

/// Where one of them is -inf both must be.
template <class T>
double lse_error(const tensor<T, 3>& got, tensor<double, 3> expected) {
  tensor<T, 3> finite = got;
  for (index_t i = 0; i < finite.size(); ++i)
    if (std::isinf(expected.data()[i]) && static_cast<double>(finite.data()[i]) == expected.data()[i])
      finite.data()[i] = T(expected.data()[i] = 0);
  return error<T>(finite, expected);
}

/// The worst error of everything that p has after solve_on, where 1 is the most that is allowed.
template <class S>
double error_of(const agent_problem<S>& p, const agent_options<S>& options) {
  using T = heed::accumulator_t<S>;
  const reference::agent_attention x = definition(p, options);
  const reference::agent_result expected = reference::agent(x);
  double worst = error<S>(p.out, expected.out, roundings<S> * tolerance<S>);
  worst = worse(worst, error<S>(p.agent_values, expected.agent_values));
  worst = worse(worst, lse_error<T>(p.agent_lse, expected.agent_lse));
  worst = worse(worst, lse_error<T>(p.lse, expected.lse));
  const reference::agent_gradients g = reference::agent_backward(x, reference::in_double(p.dout));
  const auto add = [&](const tensor<S, 4>& got, const tensor<double, 4>& by_definition) {
    worst = worse(worst, error<S>(got, by_definition, roundings<S> * gradient_tolerance<S>));
  };
  add(p.dq, g.dq);
  add(p.da, g.da);
  add(p.dk, g.dk);
  add(p.dv, g.dv);
  if (options.agent_bias) add(p.dagent_bias, g.dagent_bias);
  if (options.query_bias) add(p.dquery_bias, g.dquery_bias);
  return worst;
}

template <class S>
bool same_result(const agent_problem<S>& a, const agent_problem<S>& b) {
  using T = heed::accumulator_t<S>;
  return same_bits<S, 4>(a.out, b.out) && same_bits<S, 4>(a.agent_values, b.agent_values) &&
         same_bits<T, 3>(a.agent_lse, b.agent_lse) && same_bits<T, 3>(a.lse, b.lse) && same_bits<S, 4>(a.dq, b.dq) &&
         same_bits<S, 4>(a.da, b.da) && same_bits<S, 4>(a.dk, b.dk) && same_bits<S, 4>(a.dv, b.dv) &&
         same_bits<S, 4>(a.dagent_bias, b.dagent_bias) && same_bits<S, 4>(a.dquery_bias, b.dquery_bias);
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::agent_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::agent_forward_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::agent_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::agent_backward_on<heed::default_arch, heed::bfloat16>);
