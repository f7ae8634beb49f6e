/// Random problems of linear attention with feature maps.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/linear.hpp"

#include <heed/ops/linear/linear_forward.hpp>

#include <cmath>
#include <optional>

namespace linear_test {

using heed::feature_map;
using heed::linear_options;

/// A map, and whether it is normalised.
struct feature_kind {
  feature_map map;
  bool normalise;
};
inline constexpr feature_kind feature_kinds[] = {
    {feature_map::identity, false}, {feature_map::elu_plus_one, true}, {feature_map::relu, true},
    {feature_map::exp, true},       {feature_map::softmax, true},      {feature_map::elu_plus_one, false},
    {feature_map::relu, false},     {feature_map::exp, false},         {feature_map::softmax, false}};

struct feature_shape {
  index_t B = 1, H = 1, G = 1, N = 1, D = 8, E = 8;
  std::optional<index_t> M{};  // N

  index_t keys() const { return M.value_or(N); }
};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct feature_problem {
  using storage = S;
  using T = heed::accumulator_t<S>;

  explicit feature_problem(const feature_shape& s, unsigned seed = 1, index_t sequences = 0) : random(seed) {
    const index_t M = s.keys(), states = sequences > 0 ? sequences : s.B;
    q = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.D}, random);
    k = support::normal_tensor<S, 4>({s.B, s.G, M, s.D}, random);
    v = support::normal_tensor<S, 4>({s.B, s.G, M, s.E}, random);
    initial_state = support::normal_tensor<T, 4>({states, s.G, s.D, s.E}, random);
    initial_sum = support::normal_tensor<T, 3>({states, s.G, s.D}, random);
    for (T& x : initial_sum) x = T(0.5) + std::fabs(x);
    out = tensor<S, 4>::full({s.B, s.H, s.N, s.E}, support::quiet_nan<S>);
    denominator = tensor<T, 3>::full({s.B, s.H, s.N}, support::quiet_nan<T>);
    final_state = tensor<T, 4>::full({states, s.G, s.D, s.E}, support::quiet_nan<T>);
    final_sum = tensor<T, 3>::full({states, s.G, s.D}, support::quiet_nan<T>);
  }

  /// Options with the initial sums, as far as they belong to the kind.
  linear_options<S> options(const feature_kind& kind, bool causal, bool with_state = false) const {
    linear_options<S> o;
    o.map = kind.map;
    o.normalise = kind.normalise;
    o.causal = causal;
    if (with_state) o.initial_state = initial_state;
    if (with_state && kind.normalise) o.initial_sum = initial_sum;
    return o;
  }

  support::random_engine random;
  tensor<S, 4> q, k, v, out;
  tensor<T, 3> denominator;
  tensor<T, 4> initial_state, final_state;
  tensor<T, 3> initial_sum, final_sum;
};

/// The definition of a call.
template <class S>
reference::linear_attention definition(const feature_problem<S>& p, const linear_options<S>& options) {
  reference::linear_attention a;
  a.q = reference::in_double(p.q);
  a.k = reference::in_double(p.k);
  a.v = reference::in_double(p.v);
  a.map = static_cast<reference::feature_map>(options.map);
  a.normalise = options.normalise;
  a.causal = options.causal;
  a.scale = options.scale.or_default(options.normalise ? 1 : 1 / std::sqrt(static_cast<double>(p.k.extent(3))));
  a.eps = options.eps;
  if (options.q_offset.given()) a.q_offset = options.q_offset.or_default(0);
  a.initial_state = reference::in_double(options.initial_state);
  a.initial_sum = reference::in_double(options.initial_sum);
  a.cu_seqlens = offsets_of(options.cu_seqlens);
  return a;
}

/// Solves p, denominators, states and all, on an instruction set of the caller's choice.
template <class A, class S>
void solve_on(feature_problem<S>& p, linear_options<S> options) {
  options.final_state = p.final_state;
  if (options.normalise) {
    options.final_sum = p.final_sum;
    options.denominator = p.denominator;
  }
  heed::detail::linear_forward_on<A, S>(p.q, p.k, p.v, p.out, options);
}
template <class S>
void solve(feature_problem<S>& p, const linear_options<S>& options) {
  solve_on<heed::default_arch, S>(p, options);
}

/// Solves p and returns the worst error against the definition, of everything that comes out.
template <class A, class S>
double error_on(feature_problem<S>& p, const linear_options<S>& options) {
  using T = heed::accumulator_t<S>;
  reference::linear_result expected = reference::linear(definition(p, options));
  solve_on<A, S>(p, options);
  double worst = worse(error<S>(p.out, expected.out), error<T>(p.final_state, expected.final_state));
  if (!options.normalise) return worst;
  if (options.map == feature_map::exp) {
    for (double& x : expected.denominator) x = std::log(x);
    // Logarithms of 0 are compared as large numbers.
    for (double& x : expected.denominator) x = std::max(x, -1000.0);
    for (T& x : p.denominator) x = std::max(x, T(-1000));
  }
  worst = worse(worst, error<T>(p.denominator, expected.denominator));
  return worse(worst, error<T>(p.final_sum, expected.final_sum));
}
template <class S>
double error_of(feature_problem<S>& p, const linear_options<S>& options) {
  return error_on<heed::default_arch, S>(p, options);
}

template <class S>
bool same_result(const feature_problem<S>& a, const feature_problem<S>& b) {
  using T = heed::accumulator_t<S>;
  return same_bits<S, 4>(a.out, b.out) && same_bits<T, 3>(a.denominator, b.denominator) &&
         same_bits<T, 4>(a.final_state, b.final_state) && same_bits<T, 3>(a.final_sum, b.final_sum);
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::linear_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::linear_forward_on<heed::default_arch, heed::bfloat16>);
