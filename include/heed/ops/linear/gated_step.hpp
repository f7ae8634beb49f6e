/// Gated linear attention step by step.
#pragma once

#include <heed/kernel/gated_checks.hpp>
#include <heed/kernel/recurrence_step_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <gate_kind Kind, class S>
linear_call<S> gated_step_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                               const gate_view<Kind, const accumulator_t<S>>& g, const view<S, 4>& out,
                               const recurrence_step_options<S>& options) noexcept {
  recurrence_options<S> forward{};
  forward.scale = options.scale;
  return gated_call<Kind>(q, k, v, g, out, forward, 0);
}

/// gated_linear_step for an instruction set of the caller's choice.
template <class A, gate_kind Kind, class S>
void gated_linear_step_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                          gate_view<Kind, const accumulator_t<S>> g, view<S, 4> out, view<accumulator_t<S>, 4> state,
                          const recurrence_step_options<S>& options) {
  static_assert(element<S>, "heed::gated_linear_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_linear_step");
    check_recurrence(check, q, k, v, out, options.scale, 1);
    check.extent(k, "k", 2, q.extent(2), "N, as q");
    check_gates<Kind>(check, g, k);
    check_given_state(check, state, "state", q.extent(0), k.extent(1), k.extent(3), v.extent(3));
    check_apart(check, memory_of(q, k, v, g), out, "out", state, "state");

    const linear_call<S> call = gated_step_call<Kind>(q, k, v, g, out, options);
    const linear_steps<A, S, Kind> steps(call, state);
    recurrence_step_run(steps, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that gated_linear_step needs for tensors of these extents and these options, whatever the gates.
template <element T, class A = default_arch>
index_t gated_linear_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                        const std::type_identity_t<view<const T, 4>>& k,
                                        const std::type_identity_t<view<const T, 4>>& v,
                                        const std::type_identity_t<recurrence_step_options<T>>& options = {}) {
  const auto call = detail::gated_step_call<detail::gate_kind::feature, T>(q, k, v, {}, {}, options);
  const detail::linear_steps<A, T, detail::gate_kind::feature> steps(call, {});
  return detail::recurrence_step_run(steps, detail::resolve(options.executor)).bytes();
}

/// Takes the newest tokens into a state and reads it, as gated_linear_forward does:
///     state = exp(g_t) state + k_t v_t^T     out_t = scale state^T q_t     for t = 0 .. N - 1
///
/// q     [B,H,N,D]  queries, N of each sequence: one, or a few; gated_linear_forward is faster from about 8 on
/// k     [B,G,N,D]  keys; H a multiple of G
/// v     [B,G,N,E]  values
/// g     [B,G,N,D]  natural logs of the gates, at most 0 (-inf empties the state first), float (double for double)
/// out   [B,H,N,E]  output; must not overlap an input. Its element type is that of q, k and v
/// state [B,G,D,E]  updated in place, float (double for double); last axis contiguous
/// options          see recurrence_step_options; scale defaults to D^-1/2
///
/// Legal edges: N = 0.
/// Cost: reads and writes the state once a token, for all heads that share it: 2 D E multiply-adds, and D E for each
/// further head. Scratch O(H / G (D + E)) a worker; allocates nothing once the thread keeps enough, or with
/// options.scratch (gated_linear_step_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance.
/// Throws heed::invalid_argument before any write: as gated_linear_forward; no state.
/// Paper: Yang, Wang, Shen, Panda, Kim, Gated Linear Attention Transformers with Hardware-Efficient Training, 2024,
/// equation 3.
template <writable<4> Out, writable<4> State>
void gated_linear_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                       std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                       State&& state,
                       const std::type_identity_t<recurrence_step_options<element_of_t<Out>>>& options = {}) {
  detail::gated_linear_step_on<default_arch, detail::gate_kind::feature, element_of_t<Out>>(
      q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out),
      view_traits<std::remove_reference_t<State>>::make(state), options);
}

/// The same with one gate a token, g [B,G,N].
template <writable<4> Out, writable<4> State>
void gated_linear_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                       std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 3>> g, Out&& out,
                       State&& state,
                       const std::type_identity_t<recurrence_step_options<element_of_t<Out>>>& options = {}) {
  detail::gated_linear_step_on<default_arch, detail::gate_kind::token, element_of_t<Out>>(
      q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out),
      view_traits<std::remove_reference_t<State>>::make(state), options);
}

HEED_ARCH_END
