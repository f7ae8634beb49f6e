/// Steps of gated linear attention, measured as whole sequences are.
#pragma once

#include "ops/linear/gated.hpp"

#include <heed/ops/linear/gated_step.hpp>

#include <algorithm>

namespace linear_test {

using heed::recurrence_step_options;

/// Takes tokens [begin, end) into p.final_state, on an instruction set of the caller's choice.
template <class A, class S>
void step_on(problem<S>& p, gates kind, index_t begin, index_t end, const recurrence_step_options<S>& options = {}) {
  using heed::detail::gate_kind;
  using T = typename problem<S>::T;
  const auto in = [&](const auto& t) { return t.all().slice(2, begin, end); };
  const view<const S, 4> q = in(std::as_const(p.q)), k = in(std::as_const(p.k)), v = in(std::as_const(p.v));
  const view<S, 4> out = p.out.all().slice(2, begin, end);
  const view<T, 4> state = p.final_state;
  if (kind == gates::feature)
    heed::detail::gated_linear_step_on<A, gate_kind::feature, S>(q, k, v, in(std::as_const(p.feature_gates)), out,
                                                                 state, options);
  else
    heed::detail::gated_linear_step_on<A, gate_kind::token, S>(q, k, v, in(std::as_const(p.token_gates)), out, state,
                                                               options);
}

/// All tokens from the initial state, `at_once` a step.
template <class A, class S>
void step_through_on(problem<S>& p, gates kind, index_t at_once, const recurrence_step_options<S>& options = {}) {
  p.final_state = p.initial_state;
  const index_t N = p.q.extent(2);
  for (index_t t = 0; t < N; t += at_once) step_on<A, S>(p, kind, t, std::min(N, t + at_once), options);
}
template <class S>
void step_through(problem<S>& p, gates kind, index_t at_once, const recurrence_step_options<S>& options = {}) {
  step_through_on<heed::default_arch, S>(p, kind, at_once, options);
}

/// The worst error of p as the result of steps.
template <class S>
double step_error(const problem<S>& p, gates kind, const recurrence_step_options<S>& options = {}) {
  const reference::recurrence_result expected =
      reference::scan(definition<S>(p, kind, {.scale = options.scale, .initial_state = p.initial_state}));
  return worse(error<S>(p.out, expected.out), error<typename problem<S>::T>(p.final_state, expected.final_state));
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::gated_linear_step_on<heed::default_arch, heed::detail::gate_kind::feature, float>);
HEED_TEST_INSTANCE(heed::detail::gated_linear_step_on<heed::default_arch, heed::detail::gate_kind::token, float>);
HEED_TEST_INSTANCE(
    heed::detail::gated_linear_step_on<heed::default_arch, heed::detail::gate_kind::feature, heed::bfloat16>);
HEED_TEST_INSTANCE(
    heed::detail::gated_linear_step_on<heed::default_arch, heed::detail::gate_kind::token, heed::bfloat16>);
