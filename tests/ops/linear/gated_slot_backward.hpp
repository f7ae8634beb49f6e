/// Random problems of the gradients of Gated Slot Attention.
#pragma once

#include "ops/linear/gated_slot.hpp"

#include <heed/ops/linear/gated_slot_backward.hpp>

namespace linear_test {

using heed::gated_slot_backward_options;

/// A problem with what backward takes and gives: upstream gradients N(0, 1), gradients full of NaN.
template <class S>
struct slot_backward_problem : slot_problem<S> {
  using T = typename slot_problem<S>::T;

  explicit slot_backward_problem(const slot_shape& x, double tau = 4, unsigned seed = 1,
                                 strengths write = strengths::tied, index_t sequences = 0)
      : slot_problem<S>(x, tau, seed, write, sequences) {
    const index_t states = this->initial_keys.extent(0);
    dout = support::normal_tensor<S, 4>({x.B, x.H, x.N, x.E}, this->random);
    dfinal_keys = support::normal_tensor<T, 4>({states, x.G, x.D, x.S}, this->random);
    dfinal_values = support::normal_tensor<T, 4>({states, x.G, x.S, x.E}, this->random);
    dq = tensor<S, 4>::full({x.B, x.H, x.N, x.D}, support::quiet_nan<S>);
    dk = tensor<S, 4>::full({x.B, x.G, x.N, x.D}, support::quiet_nan<S>);
    dv = tensor<S, 4>::full({x.B, x.G, x.N, x.E}, support::quiet_nan<S>);
    ds = tensor<T, 4>::full({x.B, x.G, x.N, x.S}, support::quiet_nan<T>);
    dg = ds;
    dinitial_keys = tensor<T, 4>::full({states, x.G, x.D, x.S}, support::quiet_nan<T>);
    dinitial_values = tensor<T, 4>::full({states, x.G, x.S, x.E}, support::quiet_nan<T>);
  }

  tensor<S, 4> dout, dq, dk, dv;
  tensor<T, 4> ds, dg, dfinal_keys, dfinal_values, dinitial_keys, dinitial_values;
};

/// Options of forward that backward shares.
template <class S>
gated_slot_options<S> forward_options(const gated_slot_backward_options<S>& options) {
  gated_slot_options<S> forward;
  forward.scale = options.scale;
  forward.initial_keys = options.initial_keys;
  forward.initial_values = options.initial_values;
  forward.cu_seqlens = options.cu_seqlens;
  return forward;
}

/// Both passes.
template <class A, class S>
void solve_on(slot_backward_problem<S>& p, gated_slot_backward_options<S> options = {}) {
  gated_slot_options<S> forward = forward_options(options);
  forward.executor = options.executor;
  solve_on<A, S>(static_cast<slot_problem<S>&>(p), forward);
  options.dinitial_keys = p.dinitial_keys;
  options.dinitial_values = p.dinitial_values;
  heed::detail::gated_slot_backward_on<A, S>(p.q, p.k, p.v, p.s, p.g, p.scores, p.dout, p.dq, p.dk, p.dv, p.ds, p.dg,
                                             options);
}
template <class S>
void solve(slot_backward_problem<S>& p, const gated_slot_backward_options<S>& options = {}) {
  solve_on<heed::default_arch, S>(p, options);
}

/// The worst error against the definition, of all gradients.
template <class S>
double error(const slot_backward_problem<S>& p, const reference::gated_slot_gradients& expected) {
  using T = typename slot_problem<S>::T;
  constexpr double allowed = gradient_tolerance<S>, allowed_in_T = gradient_tolerance<T>;
  double worst = worse(error<S>(p.dq, expected.dq, allowed), error<S>(p.dk, expected.dk, allowed));
  worst = worse(worst, error<S>(p.dv, expected.dv, allowed));
  worst = worse(worst, error<T>(p.ds, expected.ds, allowed_in_T));
  worst = worse(worst, error<T>(p.dg, expected.dg, gate_gradient_tolerance<T>));
  worst = worse(worst, error<T>(p.dinitial_keys, expected.dinitial_keys, allowed_in_T));
  return worse(worst, error<T>(p.dinitial_values, expected.dinitial_values, allowed_in_T));
}

template <class S>
reference::gated_slot_gradients gradients_of(const slot_backward_problem<S>& p,
                                             const gated_slot_backward_options<S>& options) {
  return reference::gated_slot_backward(definition<S>(p, forward_options(options)), reference::in_double(p.dout),
                                        reference::in_double(options.dfinal_keys),
                                        reference::in_double(options.dfinal_values));
}

template <class A, class S>
double error_on(slot_backward_problem<S>& p, const gated_slot_backward_options<S>& options = {}) {
  solve_on<A, S>(p, options);
  return error(p, gradients_of(p, options));
}
template <class S>
double error_of(slot_backward_problem<S>& p, const gated_slot_backward_options<S>& options = {}) {
  return error_on<heed::default_arch, S>(p, options);
}

template <class S>
bool same_gradients(const slot_backward_problem<S>& a, const slot_backward_problem<S>& b) {
  using T = typename slot_problem<S>::T;
  return same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) && same_bits<S, 4>(a.dv, b.dv) &&
         same_bits<T, 4>(a.ds, b.ds) && same_bits<T, 4>(a.dg, b.dg) &&
         same_bits<T, 4>(a.dinitial_keys, b.dinitial_keys) && same_bits<T, 4>(a.dinitial_values, b.dinitial_values);
}

/// Slots before the first token, and gradients by those after the last.
template <class S>
gated_slot_backward_options<S> with_slots(const slot_backward_problem<S>& p, index_t chunk = 64) {
  return {.chunk = chunk,
          .initial_keys = p.initial_keys,
          .initial_values = p.initial_values,
          .dfinal_keys = p.dfinal_keys,
          .dfinal_values = p.dfinal_values};
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::gated_slot_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::gated_slot_backward_on<heed::default_arch, heed::bfloat16>);
