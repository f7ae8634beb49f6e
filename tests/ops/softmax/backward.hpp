/// softmax_backward after softmax_forward, and what the error of its gradients is in units of what is allowed.
#pragma once

#include "ops/softmax/problem.hpp"
#include "reference/softmax_backward.hpp"

#include <heed/mod/masks.hpp>
#include <heed/ops/softmax/backward.hpp>

namespace softmax_test {

using heed::softmax_backward_options;

/// A problem with what backward takes and gives: dout N(0, 1), gradients full of NaN.
template <class S>
struct backward_problem : problem<S> {
  using T = typename problem<S>::accumulator;

  explicit backward_problem(const shape& s, unsigned seed = 1);

  tensor<S, 4> dout, dq, dk, dv;
  tensor<T, 3> dlse;
  tensor<T, 1> dsink;
};

template <class S>
backward_problem<S>::backward_problem(const shape& s, unsigned seed) : problem<S>(s, seed) {
  dout = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.E}, this->random);
  dlse = support::normal_tensor<T, 3>({s.B, s.H, s.N}, this->random);
  dq = tensor<S, 4>::full({s.B, s.H, s.N, s.D}, support::quiet_nan<S>);
  dk = tensor<S, 4>::full({s.B, s.G, s.M, s.D}, support::quiet_nan<S>);
  dv = tensor<S, 4>::full({s.B, s.G, s.M, s.E}, support::quiet_nan<S>);
  dsink = tensor<T, 1>::full({s.H}, support::quiet_nan<T>);
}

/// Options of forward that backward shares.
template <class S>
softmax_options<S> forward_options(const softmax_backward_options<S>& o) {
  softmax_options<S> f;
  f.scale = o.scale;
  f.softcap = o.softcap;
  f.bias = o.bias;
  f.sink = o.sink;
  f.window_left = o.window_left;
  f.window_right = o.window_right;
  f.q_offset = o.q_offset;
  f.kv_offset = o.kv_offset;
  f.cu_seqlens_q = o.cu_seqlens_q;
  f.cu_seqlens_k = o.cu_seqlens_k;
  f.executor = o.executor;
  return f;
}

template <class A, class S, class... Mods>
void solve_on(backward_problem<S>& p, const softmax_backward_options<S>& options, const Mods&... mods) {
  softmax_options<S> forward = forward_options(options);
  forward.lse = p.lse;
  heed::softmax_forward(p.q, p.k, p.v, p.out, forward, mods...);
  heed::detail::softmax_backward_on<A, S>(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, options, mods...);
}

template <class S, class... Mods>
void solve(backward_problem<S>& p, const softmax_backward_options<S>& options, const Mods&... mods) {
  solve_on<heed::default_arch, S>(p, options, mods...);
}

/// The largest error of a gradient: twice its noise, one rounding to its type, and weights below the normal range that
/// count as 0.
template <class S, int Rank>
double worst_gradient(const view<const S, Rank>& got, const view<const double, Rank>& expected,
                      const view<const double, Rank>& noise) {
  using T = heed::accumulator_t<S>;
  double worst = 0;
  for (index_t i = 0; i < got.extent(0); ++i) {
    if constexpr (Rank > 1) {
      worst = worse(worst, worst_gradient<S, Rank - 1>(got[i], expected[i], noise[i]));
    } else {
      const double allowed =
          2 * (roundoff<T> * noise[i] + roundoff<S> * std::fabs(expected[i])) + 4096.0 * std::numeric_limits<T>::min();
      worst = worse(worst, relative_to(static_cast<double>(got[i]), expected[i], allowed));
    }
  }
  return worst;
}

/// The largest error of all gradients. In a packed batch, of rows that sequences own.
template <class S>
double worst_error(const backward_problem<S>& p, const reference::softmax_gradients& expected, index_t queries,
                   index_t keys) {
  const auto part = [](const auto& t, index_t rows) { return t.all().slice(2, 0, rows); };
  double worst =
      worst_gradient<S, 4>(part(p.dq, queries), part(expected.dq, queries), part(expected.dq_noise, queries));
  worst = worse(worst, worst_gradient<S, 4>(part(p.dk, keys), part(expected.dk, keys), part(expected.dk_noise, keys)));
  return worse(worst, worst_gradient<S, 4>(part(p.dv, keys), part(expected.dv, keys), part(expected.dv_noise, keys)));
}

/// The arguments of the definition.
template <class S>
reference::softmax_arguments arguments_of(const softmax_backward_options<S>& options) {
  return arguments_of<S>(forward_options(options));
}

/// Solves p and returns the worst error against the definition.
template <class A, class S>
double gradient_error_on(backward_problem<S>& p, softmax_backward_options<S> options,
                         const reference::softmax_arguments& arguments, const auto&... mods) {
  if (options.sink) options.dsink = p.dsink;
  solve_on<A, S>(p, options, mods...);
  const auto expected = reference::softmax_backward<S>(p.q, p.k, p.v, p.dout, options.dlse, arguments);
  double worst = worst_error(p, expected, arguments.cu_q.empty() ? p.q.extent(2) : arguments.cu_q.back(),
                             arguments.cu_k.empty() ? p.k.extent(2) : arguments.cu_k.back());
  using T = heed::accumulator_t<S>;
  if (options.sink) worst = worse(worst, worst_gradient<T, 1>(p.dsink, expected.dsink, expected.dsink_noise));
  if (options.dbias) worst = worse(worst, worst_gradient<S, 4>(options.dbias, expected.dbias, expected.dbias_noise));
  return worst;
}

template <class S>
double gradient_error(backward_problem<S>& p, const softmax_backward_options<S>& options = {}, const auto&... mods) {
  reference::softmax_arguments arguments = arguments_of<S>(options);
  (add_mod(arguments, mods), ...);
  return gradient_error_on<heed::default_arch, S>(p, options, arguments, mods...);
}

template <class S>
bool same_gradients(const backward_problem<S>& a, const backward_problem<S>& b) {
  return same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) && same_bits<S, 4>(a.dv, b.dv) &&
         same_bits<typename backward_problem<S>::T, 1>(a.dsink, b.dsink);
}

}  // namespace softmax_test

#include "ops/softmax/instances.hpp"

HEED_TEST_INSTANCE_OF(struct softmax_test::backward_problem<float>);
HEED_TEST_INSTANCE_OF(struct softmax_test::backward_problem<double>);
HEED_TEST_INSTANCE_OF(struct softmax_test::backward_problem<heed::bfloat16>);
HEED_TEST_INSTANCE(reference::softmax_backward<float>);
HEED_TEST_INSTANCE(reference::softmax_backward<double>);
HEED_TEST_INSTANCE(reference::softmax_backward<heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::softmax_backward_on<heed::default_arch, double>);
HEED_TEST_INSTANCE(heed::detail::softmax_backward_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_backward_on<heed::default_arch, float, heed::causal>);
HEED_TEST_INSTANCE(heed::detail::softmax_backward_on<heed::default_arch, double, heed::causal>);
