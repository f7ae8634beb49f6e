/// Gradients of gated linear attention as calls, and what its operators ask of them.
#pragma once

#include <heed/kernel/gated_checks.hpp>
#include <heed/kernel/linear_gradient.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <gate_kind Kind, class T>
HEED_COLD void check_gate_gradients(const checker& check, const gate_view<Kind, T>& dg,
                                    const gate_view<Kind, const T>& g) {
  for (int axis = 0; axis < gate_view<Kind, T>::rank; ++axis) check.extent(dg, "dg", axis, g.extent(axis), "as g");
  if constexpr (Kind == gate_kind::feature) {
    check.output(dg, "dg");
  } else {
    check.require(dg.data() != nullptr || is_empty(dg), "dg", "data", "a null pointer");
    check_scattered_output(check, dg, "dg");
  }
}

/// The states of a call: those it starts from, and gradients by them and by those it ends with.
template <class S>
HEED_COLD void check_states(const checker& check, const linear_call<S>& call,
                            const recurrence_backward_options<S>& options) {
  const stream_numbering streams = call.streams();
  const auto check_one = [&](const auto& state, const char* name) {
    check_state(check, state, name, streams.sequences, streams.states, call.features(), call.value_features());
  };
  check_one(options.initial_state, "options.initial_state");
  check_one(options.dinitial_state, "options.dinitial_state");
  check_one(options.dfinal_state, "options.dfinal_state");
}

template <gate_kind Kind, class S>
linear_gradient_call<S> gated_gradient_call(const view<const S, 4>& q, const view<const S, 4>& k,
                                            const view<const S, 4>& v, const gate_view<Kind, const accumulator_t<S>>& g,
                                            const view<const S, 4>& dout, const view<S, 4>& dq, const view<S, 4>& dk,
                                            const view<S, 4>& dv, const gate_view<Kind, accumulator_t<S>>& dg,
                                            const recurrence_backward_options<S>& options) noexcept {
  recurrence_options<S> forward{};
  forward.scale = options.scale;
  forward.chunk = options.chunk;
  forward.initial_state = options.initial_state;
  forward.cu_seqlens = options.cu_seqlens;
  forward.reverse = options.reverse;
  linear_gradient_call<S> call{gated_call<Kind>(q, k, v, g, view<S, 4>{}, forward, 0),
                               dout,
                               dq,
                               dk,
                               dv,
                               {},
                               {},
                               options.dinitial_state,
                               options.dfinal_state,
                               {}};
  if constexpr (Kind == gate_kind::feature)
    call.dfeature_gates = dg;
  else
    call.dtoken_gates = dg;
  return call;
}

}  // namespace detail
HEED_ARCH_END
