/// Gated Slot Attention step by step.
#pragma once

#include <heed/kernel/recurrence_step_run.hpp>
#include <heed/kernel/slot_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
slot_call<S> gated_slot_step_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                  const view<const accumulator_t<S>, 4>& s, const view<const accumulator_t<S>, 4>& g,
                                  const view<S, 4>& out, const gated_slot_step_options<S>& options) noexcept {
  slot_call<S> call{};
  call.q = q;
  call.k = k;
  call.v = v;
  call.strengths = s;
  call.gates = g;
  call.out = out;
  call.scale = options.scale.or_default(1 / std::sqrt(double(q.extent(3))));
  call.chunk = 1;
  return call;
}

/// gated_slot_step for an instruction set of the caller's choice.
template <class A, class S>
void gated_slot_step_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const accumulator_t<S>, 4> s,
                        view<const accumulator_t<S>, 4> g, view<S, 4> out, view<accumulator_t<S>, 4> slot_keys,
                        view<accumulator_t<S>, 4> slot_values, const gated_slot_step_options<S>& options) {
  static_assert(element<S>, "heed::gated_slot_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_slot_step");
    check_recurrence(check, q, k, v, out, options.scale, 1);
    check_slot_writes(check, q, k, s, g);
    check_given_state(check, slot_keys, "slot_keys", q.extent(0), k.extent(1), k.extent(3), s.extent(3));
    check_given_state(check, slot_values, "slot_values", q.extent(0), k.extent(1), s.extent(3), v.extent(3));
    check_apart(check, memory_of(q, k, v, s, g), out, "out", slot_keys, "slot_keys", slot_values, "slot_values");

    const slot_call<S> call = gated_slot_step_call(q, k, v, s, g, out, options);
    const slot_steps<A, S> steps(call, slot_keys, slot_values);
    recurrence_step_run(steps, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that gated_slot_step needs for tensors of these extents, `slots` slots and these options.
template <element T, class A = default_arch>
index_t gated_slot_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                      const std::type_identity_t<view<const T, 4>>& k,
                                      const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                                      const std::type_identity_t<gated_slot_step_options<T>>& options = {}) {
  const view<const accumulator_t<T>, 4> s(nullptr, {k.extent(0), k.extent(1), k.extent(2), slots});
  const auto call = detail::gated_slot_step_call<T>(q, k, v, s, s, {}, options);
  const detail::slot_steps<A, T> steps(call, {}, {});
  return detail::recurrence_step_run(steps, detail::resolve(options.executor)).bytes();
}

/// Takes the newest tokens into the slots and reads them, as gated_slot_forward does, for t = 0 .. N - 1:
///     slot_keys = slot_keys diag(exp g_t) + k_t s_t^T     slot_values = diag(exp g_t) slot_values + s_t v_t^T
///     out_t = slot_values^T softmax(scale slot_keys^T q_t)
///
/// q           [B,H,N,D]  queries, N of each sequence: one, or a few
/// k, v        [B,G,N,D], [B,G,N,E]  keys and values; H a multiple of G
/// s, g        [B,G,N,S]  how strongly a token writes to each slot, and the natural log of the gate that fades it
///                        first, at most 0; float (double for double)
/// out         [B,H,N,E]  output; must not overlap an input. Its element type is that of q, k and v
/// slot_keys   [B,G,D,S]  updated in place, float (double for double), as is
/// slot_values [B,G,S,E]  last axes contiguous
/// options                see gated_slot_step_options; scale defaults to D^-1/2
///
/// Legal edges: N = 0. Slots that were never written take part with score 0 and value 0.
/// Cost: reads and writes both states once a token, for all heads that share them. Scratch O(H / G (D + S + E)) a
/// worker; allocates nothing once the thread keeps enough, or with options.scratch (gated_slot_step_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as gated_slot_forward.
/// Throws heed::invalid_argument before any write: as gated_slot_forward; a state that is missing.
/// Paper: Zhang et al., Gated Slot Attention for Efficient Linear-Time Sequence Modeling, 2024, section 3.
template <writable<4> Out, writable<4> Keys, writable<4> Values>
void gated_slot_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                     std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> s,
                     std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                     Keys&& slot_keys, Values&& slot_values,
                     const std::type_identity_t<gated_slot_step_options<element_of_t<Out>>>& options = {}) {
  detail::gated_slot_step_on<default_arch, element_of_t<Out>>(
      q, k, v, s, g, view_traits<std::remove_reference_t<Out>>::make(out),
      view_traits<std::remove_reference_t<Keys>>::make(slot_keys),
      view_traits<std::remove_reference_t<Values>>::make(slot_values), options);
}

HEED_ARCH_END
