/// Steps of Gated Slot Attention, measured as whole sequences are.
#pragma once

#include "ops/linear/gated_slot.hpp"

#include <heed/ops/linear/gated_slot_step.hpp>

#include <algorithm>

namespace linear_test {

using heed::gated_slot_step_options;

/// Takes tokens [begin, end) into p.final_keys and p.final_values, on an instruction set of the caller's choice.
template <class A, class S>
void step_on(slot_problem<S>& p, index_t begin, index_t end, const gated_slot_step_options<S>& options = {}) {
  const auto in = [&](const auto& t) { return t.all().slice(2, begin, end); };
  heed::detail::gated_slot_step_on<A, S>(in(std::as_const(p.q)), in(std::as_const(p.k)), in(std::as_const(p.v)),
                                         in(std::as_const(p.s)), in(std::as_const(p.g)),
                                         p.out.all().slice(2, begin, end), p.final_keys, p.final_values, options);
}

/// All tokens from the initial slots, `at_once` a step.
template <class A, class S>
void step_through_on(slot_problem<S>& p, index_t at_once, const gated_slot_step_options<S>& options = {}) {
  p.final_keys = p.initial_keys;
  p.final_values = p.initial_values;
  const index_t N = p.q.extent(2);
  for (index_t t = 0; t < N; t += at_once) step_on<A, S>(p, t, std::min(N, t + at_once), options);
}
template <class S>
void step_through(slot_problem<S>& p, index_t at_once, const gated_slot_step_options<S>& options = {}) {
  step_through_on<heed::default_arch, S>(p, at_once, options);
}

/// The worst error of p as the result of steps, which give no scores.
template <class S>
double step_error(const slot_problem<S>& p, const gated_slot_step_options<S>& options = {}) {
  using T = typename slot_problem<S>::T;
  const reference::gated_slot_result expected = reference::gated_slot(
      definition<S>(p, {.scale = options.scale, .initial_keys = p.initial_keys, .initial_values = p.initial_values}));
  return worse(error<S>(p.out, expected.out),
               worse(error<T>(p.final_keys, expected.final_keys), error<T>(p.final_values, expected.final_values)));
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::gated_slot_step_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::gated_slot_step_on<heed::default_arch, heed::bfloat16>);
