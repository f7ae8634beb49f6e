/// Gradients of random problems of linear attention with feature maps.
#pragma once

#include "ops/linear/feature.hpp"

#include <heed/ops/linear/linear_backward.hpp>

namespace linear_test {

using heed::linear_backward_options;

template <class S>
struct feature_gradient_problem : feature_problem<S> {
  explicit feature_gradient_problem(const feature_shape& s, unsigned seed = 1, index_t sequences = 0)
      : feature_problem<S>(s, seed, sequences) {
    const auto unset = [](index_t heads, index_t rows, index_t features, index_t batch) {
      return tensor<S, 4>::full({batch, heads, rows, features}, support::quiet_nan<S>);
    };
    dout = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.E}, this->random);
    dq = unset(s.H, s.N, s.D, s.B);
    dk = unset(s.G, s.keys(), s.D, s.B);
    dv = unset(s.G, s.keys(), s.E, s.B);
  }

  tensor<S, 4> dout, dq, dk, dv;
};

template <class S>
linear_backward_options<S> backward_options(const linear_options<S>& forward) {
  linear_backward_options<S> o;
  o.map = forward.map;
  o.normalise = forward.normalise;
  o.causal = forward.causal;
  o.scale = forward.scale;
  o.chunk = forward.chunk;
  o.q_offset = forward.q_offset;
  o.initial_state = forward.initial_state;
  o.initial_sum = forward.initial_sum;
  o.cu_seqlens = forward.cu_seqlens;
  o.executor = forward.executor;
  return o;
}

/// Solves p, then differentiates it.
template <class A, class S>
void differentiate_on(feature_gradient_problem<S>& p, const linear_options<S>& options) {
  solve_on<A, S>(p, options);
  heed::detail::linear_backward_on<A, S>(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.dq, p.dk, p.dv,
                                         backward_options(options));
}
template <class S>
void differentiate(feature_gradient_problem<S>& p, const linear_options<S>& options) {
  differentiate_on<heed::default_arch, S>(p, options);
}

/// The error of the gradients. Those of 16-bit types follow from out as it was stored: where a divisor is small, its
/// rounding is more than all other errors together.
template <class A, class S>
double gradient_error_on(feature_gradient_problem<S>& p, const linear_options<S>& options) {
  differentiate_on<A, S>(p, options);
  const reference::linear_attention a = definition(p, options);
  const bool rounded = sizeof(S) < sizeof(float);
  const reference::linear_gradients expected = reference::linear_backward(
      a, rounded ? reference::in_double(p.out) : reference::linear(a).out, reference::in_double(p.dout));
  constexpr double allowed = gradient_tolerance<S>;
  return worse(error<S>(p.dq, expected.dq, allowed),
               worse(error<S>(p.dk, expected.dk, allowed), error<S>(p.dv, expected.dv, allowed)));
}
template <class S>
double gradient_error_of(feature_gradient_problem<S>& p, const linear_options<S>& options) {
  return gradient_error_on<heed::default_arch, S>(p, options);
}

template <class S>
bool same_gradients(const feature_gradient_problem<S>& a, const feature_gradient_problem<S>& b) {
  return same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) && same_bits<S, 4>(a.dv, b.dv);
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::linear_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::linear_backward_on<heed::default_arch, heed::bfloat16>);
