/// Random problems of the gradients of gated linear attention.
#pragma once

#include "ops/linear/gated.hpp"

#include <heed/ops/linear/gated_backward.hpp>

namespace linear_test {

using heed::recurrence_backward_options;

/// A problem with what backward takes and gives: upstream gradients N(0, 1), gradients full of NaN.
template <class S>
struct backward_problem : problem<S> {
  using T = typename problem<S>::T;

  explicit backward_problem(const shape& s, double tau = 4, unsigned seed = 1, index_t sequences = 0)
      : problem<S>(s, tau, seed, sequences) {
    const index_t states = this->initial_state.extent(0);
    dout = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.E}, this->random);
    dfinal_state = support::normal_tensor<T, 4>({states, s.G, s.D, s.E}, this->random);
    dq = tensor<S, 4>::full({s.B, s.H, s.N, s.D}, support::quiet_nan<S>);
    dk = tensor<S, 4>::full({s.B, s.G, s.N, s.D}, support::quiet_nan<S>);
    dv = tensor<S, 4>::full({s.B, s.G, s.N, s.E}, support::quiet_nan<S>);
    dfeature_gates = tensor<T, 4>::full({s.B, s.G, s.N, s.D}, support::quiet_nan<T>);
    dtoken_gates = tensor<T, 3>::full({s.B, s.G, s.N}, support::quiet_nan<T>);
    dinitial_state = tensor<T, 4>::full({states, s.G, s.D, s.E}, support::quiet_nan<T>);
  }

  tensor<S, 4> dout, dq, dk, dv;
  tensor<T, 4> dfinal_state, dfeature_gates, dinitial_state;
  tensor<T, 3> dtoken_gates;
};

/// Options of forward that backward shares.
template <class S>
recurrence_options<S> forward_options(const recurrence_backward_options<S>& options) {
  recurrence_options<S> forward;
  forward.scale = options.scale;
  forward.initial_state = options.initial_state;
  forward.cu_seqlens = options.cu_seqlens;
  forward.reverse = options.reverse;
  return forward;
}

template <class A, class S>
void solve_on(backward_problem<S>& p, gates kind, recurrence_backward_options<S> options = {}) {
  using heed::detail::gate_kind;
  options.dinitial_state = p.dinitial_state;
  if (kind == gates::feature)
    heed::detail::gated_linear_backward_on<A, gate_kind::feature, S>(p.q, p.k, p.v, p.feature_gates, p.dout, p.dq, p.dk,
                                                                     p.dv, p.dfeature_gates, options);
  else
    heed::detail::gated_linear_backward_on<A, gate_kind::token, S>(p.q, p.k, p.v, p.token_gates, p.dout, p.dq, p.dk,
                                                                   p.dv, p.dtoken_gates, options);
}
template <class S>
void solve(backward_problem<S>& p, gates kind, const recurrence_backward_options<S>& options = {}) {
  solve_on<heed::default_arch, S>(p, kind, options);
}

/// The worst error against the definition, of all gradients.
template <class S>
double error(const backward_problem<S>& p, gates kind, const reference::recurrence_gradients& expected) {
  using T = typename problem<S>::T;
  double worst =
      worse(error<S>(p.dq, expected.dq, gradient_tolerance<S>), error<S>(p.dk, expected.dk, gradient_tolerance<S>));
  worst = worse(worst, error<S>(p.dv, expected.dv, gradient_tolerance<S>));
  worst = worse(worst, error<T>(p.dinitial_state, expected.dinitial_state, gradient_tolerance<T>));
  return worse(worst, kind == gates::feature
                          ? error<T>(p.dfeature_gates, expected.dkey_gate, gate_gradient_tolerance<T>)
                          : error<T>(p.dtoken_gates, reference::sum_of_features(expected.dkey_gate),
                                     gate_gradient_tolerance<T>));
}

template <class A, class S>
double error_on(backward_problem<S>& p, gates kind, const recurrence_backward_options<S>& options = {}) {
  const auto expected =
      reference::scan_backward(definition<S>(p, kind, forward_options(options)), reference::in_double(p.dout),
                               reference::in_double(options.dfinal_state));
  solve_on<A, S>(p, kind, options);
  return error(p, kind, expected);
}
template <class S>
double error_of(backward_problem<S>& p, gates kind, const recurrence_backward_options<S>& options = {}) {
  return error_on<heed::default_arch, S>(p, kind, options);
}

template <class S>
bool same_gradients(const backward_problem<S>& a, const backward_problem<S>& b) {
  using T = typename problem<S>::T;
  return same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) && same_bits<S, 4>(a.dv, b.dv) &&
         same_bits<T, 4>(a.dfeature_gates, b.dfeature_gates) && same_bits<T, 3>(a.dtoken_gates, b.dtoken_gates) &&
         same_bits<T, 4>(a.dinitial_state, b.dinitial_state);
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::gated_linear_backward_on<heed::default_arch, heed::detail::gate_kind::feature, float>);
HEED_TEST_INSTANCE(heed::detail::gated_linear_backward_on<heed::default_arch, heed::detail::gate_kind::token, float>);
HEED_TEST_INSTANCE(
    heed::detail::gated_linear_backward_on<heed::default_arch, heed::detail::gate_kind::feature, heed::bfloat16>);
HEED_TEST_INSTANCE(
    heed::detail::gated_linear_backward_on<heed::default_arch, heed::detail::gate_kind::token, heed::bfloat16>);
