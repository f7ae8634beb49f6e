/// Random problems of Attention with Bounded-memory Control.
#pragma once

#include "ops/linear/gated_slot_backward.hpp"
#include "reference/abc.hpp"

#include <heed/ops/linear/abc.hpp>

namespace linear_test {

using heed::abc_backward_options;
using heed::abc_options;

/// Inputs and upstream gradients N(0, 1), logits of the given deviation, outputs full of NaN.
template <class S>
struct abc_problem : slot_backward_problem<S> {
  using T = typename slot_problem<S>::T;

  explicit abc_problem(const slot_shape& x, double deviation = 1, unsigned seed = 1, index_t sequences = 0)
      : slot_backward_problem<S>(x, 4, seed, strengths::free, sequences) {
    const index_t states = this->initial_keys.extent(0);
    support::fill_normal(this->s.all(), this->random, deviation);
    initial_sums = support::normal_tensor<T, 3>({states, x.G, x.S}, this->random, deviation);
    dfinal_sums = support::normal_tensor<T, 3>({states, x.G, x.S}, this->random);
    final_sums = tensor<T, 3>::full({states, x.G, x.S}, support::quiet_nan<T>);
    dinitial_sums = final_sums;
  }

  tensor<T, 3> initial_sums, dfinal_sums, final_sums, dinitial_sums;
};

/// What both passes are told.
template <class S>
abc_options<S> forward_options(const abc_backward_options<S>& options) {
  abc_options<S> forward;
  forward.scale = options.scale;
  forward.chunk = options.chunk;
  forward.initial_keys = options.initial_keys;
  forward.initial_values = options.initial_values;
  forward.initial_log_sums = options.initial_log_sums;
  forward.cu_seqlens = options.cu_seqlens;
  forward.executor = options.executor;
  return forward;
}

/// All three parts of a state before the first token, and gradients by those after the last.
template <class S>
abc_backward_options<S> with_history(const abc_problem<S>& p) {
  abc_backward_options<S> options;
  options.initial_keys = p.initial_keys;
  options.initial_values = p.initial_values;
  options.initial_log_sums = p.initial_sums;
  options.dfinal_keys = p.dfinal_keys;
  options.dfinal_values = p.dfinal_values;
  options.dfinal_log_sums = p.dfinal_sums;
  return options;
}

template <class S>
reference::controlled_slots definition(const abc_problem<S>& p, const abc_backward_options<S>& options) {
  return {{reference::in_double(p.q),
           reference::in_double(p.k),
           reference::in_double(p.v),
           reference::in_double(p.s),
           {},
           options.scale.or_default(1 / std::sqrt(static_cast<double>(p.k.extent(3)))),
           reference::in_double(options.initial_keys),
           reference::in_double(options.initial_values),
           offsets_of(options.cu_seqlens)},
          reference::in_double(options.initial_log_sums)};
}

/// Both passes.
template <class A, class S>
void solve_on(abc_problem<S>& p, abc_backward_options<S> options = {}) {
  abc_options<S> forward = forward_options(options);
  forward.final_keys = p.final_keys;
  forward.final_values = p.final_values;
  forward.final_log_sums = p.final_sums;
  forward.scores = p.scores;
  heed::detail::abc_forward_on<A, S>(p.q, p.k, p.v, p.s, p.out, forward);
  options.dinitial_keys = p.dinitial_keys;
  options.dinitial_values = p.dinitial_values;
  options.dinitial_log_sums = p.dinitial_sums;
  heed::detail::abc_backward_on<A, S>(p.q, p.k, p.v, p.s, p.scores, p.dout, p.dq, p.dk, p.dv, p.ds, options);
}
template <class S>
void solve(abc_problem<S>& p, const abc_backward_options<S>& options = {}) {
  solve_on<heed::default_arch, S>(p, options);
}

/// Of log sums, where -inf is as good a number as any.
template <class T>
double sums_error(tensor<T, 3> got, tensor<double, 3> expected) {
  for (index_t i = 0; i < got.size(); ++i)
    if (static_cast<double>(got.data()[i]) == expected.data()[i]) got.data()[i] = T(expected.data()[i] = 0);
  return error<T>(got, expected);
}

/// The worst errors against the definition, of both passes.
template <class S>
double forward_error(const abc_problem<S>& p, const reference::controlled_slot_result& expected) {
  using T = typename slot_problem<S>::T;
  return worse(error<S>(static_cast<const slot_problem<S>&>(p), expected.slots),
               sums_error<T>(p.final_sums, expected.final_sums));
}
template <class S>
double backward_error(const abc_problem<S>& p, const reference::controlled_slot_gradients& expected) {
  using T = typename slot_problem<S>::T;
  const reference::gated_slot_gradients& slots = expected.slots;
  double worst =
      worse(error<S>(p.dq, slots.dq, gradient_tolerance<S>), error<S>(p.dk, slots.dk, gradient_tolerance<S>));
  worst = worse(worst, error<S>(p.dv, slots.dv, gradient_tolerance<S>));
  worst = worse(worst, error<T>(p.ds, slots.ds, gate_gradient_tolerance<T>));
  worst = worse(worst, error<T>(p.dinitial_keys, slots.dinitial_keys, gradient_tolerance<T>));
  worst = worse(worst, error<T>(p.dinitial_values, slots.dinitial_values, gradient_tolerance<T>));
  return worse(worst, error<T>(p.dinitial_sums, expected.dinitial_sums, gate_gradient_tolerance<T>));
}

template <class A, class S>
double error_on(abc_problem<S>& p, const abc_backward_options<S>& options = {}) {
  solve_on<A, S>(p, options);
  const reference::controlled_slots definition_of_p = definition<S>(p, options);
  return worse(forward_error<S>(p, reference::controlled_slot(definition_of_p)),
               backward_error<S>(
                   p, reference::controlled_slot_backward(
                          definition_of_p, reference::in_double(p.dout), reference::in_double(options.dfinal_keys),
                          reference::in_double(options.dfinal_values), reference::in_double(options.dfinal_log_sums))));
}
template <class S>
double error_of(abc_problem<S>& p, const abc_backward_options<S>& options = {}) {
  return error_on<heed::default_arch, S>(p, options);
}

template <class S>
bool same_bits_of_all(const abc_problem<S>& a, const abc_problem<S>& b) {
  using T = typename slot_problem<S>::T;
  return same_result(a, b) && same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) &&
         same_bits<S, 4>(a.dv, b.dv) && same_bits<T, 4>(a.ds, b.ds) && same_bits<T, 3>(a.final_sums, b.final_sums) &&
         same_bits<T, 4>(a.dinitial_keys, b.dinitial_keys) && same_bits<T, 4>(a.dinitial_values, b.dinitial_values) &&
         same_bits<T, 3>(a.dinitial_sums, b.dinitial_sums);
}

}  // namespace linear_test
