/// Random problems of efficient attention.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/efficient.hpp"
#include "support/random.hpp"

#include <heed/ops/linear/efficient.hpp>

#include <limits>

namespace linear_test {

using heed::efficient_mode;
using heed::efficient_options;

inline constexpr efficient_mode efficient_modes[] = {efficient_mode::softmax, efficient_mode::scaling};

struct efficient_shape {
  index_t B = 1, H = 1, G = 1, N = 1, M = 1, D = 8, E = 8;
};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct efficient_problem {
  using T = heed::accumulator_t<S>;

  explicit efficient_problem(const efficient_shape& s, unsigned seed = 1) : random(seed) {
    q = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.D}, random);
    k = support::normal_tensor<S, 4>({s.B, s.G, s.M, s.D}, random);
    v = support::normal_tensor<S, 4>({s.B, s.G, s.M, s.E}, random);
    dout = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.E}, random);
    out = tensor<S, 4>::full({s.B, s.H, s.N, s.E}, support::quiet_nan<S>);
    dq = tensor<S, 4>::full({s.B, s.H, s.N, s.D}, support::quiet_nan<S>);
    dk = tensor<S, 4>::full({s.B, s.G, s.M, s.D}, support::quiet_nan<S>);
    dv = tensor<S, 4>::full({s.B, s.G, s.M, s.E}, support::quiet_nan<S>);
    key_max = tensor<T, 3>::full({s.B, s.G, s.D}, support::quiet_nan<T>);
    key_sum = tensor<T, 3>::full({s.B, s.G, s.D}, support::quiet_nan<T>);
  }

  support::random_engine random;
  tensor<S, 4> q, k, v, dout, out, dq, dk, dv;
  tensor<T, 3> key_max, key_sum;
};

template <class A, class S>
void solve_on(efficient_problem<S>& p, efficient_options<S> options = {}) {
  if (options.mode == efficient_mode::softmax) {
    options.key_max = p.key_max;
    options.key_sum = p.key_sum;
  }
  heed::detail::efficient_forward_on<A, S>(p.q, p.k, p.v, p.out, options);
  heed::detail::efficient_backward_on<A, S>(
      p.q, p.k, p.v, p.key_max, p.key_sum, p.dout, p.dq, p.dk, p.dv,
      {.mode = options.mode, .kv_lengths = options.kv_lengths, .executor = options.executor});
}

template <class S>
void solve(efficient_problem<S>& p, const efficient_options<S>& options = {}) {
  solve_on<heed::default_arch, S>(p, options);
}

/// Twice the noise of the definition's page, and one rounding to storage.
template <class S>
double out_error(const efficient_problem<S>& p, const reference::efficient_result& expected) {
  constexpr double u = std::is_same_v<S, double> ? 0x1p-53 : 0x1p-24;
  constexpr double u_out = std::is_same_v<S, heed::bfloat16> ? 0x1p-8 : std::is_same_v<S, heed::float16> ? 0x1p-11 : u;
  double worst = 0;
  for (index_t i = 0; i < p.out.size(); ++i) {
    const double o = expected.out.data()[i], difference = std::fabs(static_cast<double>(p.out.data()[i]) - o);
    const double allowed = 2 * u * expected.out_noise.data()[i] + 2 * u_out * std::fabs(o) +
                           (sizeof(S) == 2 ? 0x1p-24 : std::numeric_limits<heed::accumulator_t<S>>::min());
    worst = worse(worst, difference / allowed);
  }
  return worst;
}

/// The worst error of everything that p has after solve_on, where 1 is the most that is allowed.
template <class S>
double error_of(const efficient_problem<S>& p, const efficient_options<S>& options = {}) {
  using T = heed::accumulator_t<S>;
  reference::efficient_attention x{reference::in_double(p.q), reference::in_double(p.k), reference::in_double(p.v)};
  x.softmax = options.mode == efficient_mode::softmax;
  x.kv_lengths = offsets_of(options.kv_lengths);
  const reference::efficient_result expected = reference::efficient(x);
  double worst = out_error(p, expected);
  for (index_t i = 0; x.softmax && i < p.key_max.size(); ++i) {
    const double top = expected.key_max.data()[i], sum = expected.key_sum.data()[i];
    if (static_cast<double>(p.key_max.data()[i]) != top) return support::quiet_nan<double>;
    worst = worse(worst, std::fabs(static_cast<double>(p.key_sum.data()[i]) - sum) / (tolerance<T> * (1 + sum)));
  }
  const reference::efficient_gradients g = reference::efficient_backward(x, reference::in_double(p.dout));
  constexpr double allowed = gradient_tolerance<S>;
  worst = worse(worst, error<S>(p.dq, g.dq, allowed));
  worst = worse(worst, error<S>(p.dk, g.dk, allowed));
  return worse(worst, error<S>(p.dv, g.dv, allowed));
}

template <class S>
bool same_result(const efficient_problem<S>& a, const efficient_problem<S>& b) {
  using T = heed::accumulator_t<S>;
  return same_bits<S, 4>(a.out, b.out) && same_bits<T, 3>(a.key_max, b.key_max) &&
         same_bits<T, 3>(a.key_sum, b.key_sum) && same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) &&
         same_bits<S, 4>(a.dv, b.dv);
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::efficient_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::efficient_forward_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::efficient_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::efficient_backward_on<heed::default_arch, heed::bfloat16>);
