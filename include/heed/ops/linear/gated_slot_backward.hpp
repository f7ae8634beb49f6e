/// Gradients of Gated Slot Attention.
#pragma once

#include <heed/kernel/slot_checks.hpp>
#include <heed/kernel/slot_gradient.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
slot_gradient_call<S> gated_slot_gradient_call(const view<const S, 4>& q, const view<const S, 4>& k,
                                               const view<const S, 4>& v, const view<const accumulator_t<S>, 4>& s,
                                               const view<const accumulator_t<S>, 4>& g,
                                               const gated_slot_backward_options<S>& options) noexcept {
  slot_gradient_call<S> call{};
  call.forward = {q,
                  k,
                  v,
                  s,
                  g,
                  {},
                  {},
                  options.initial_keys,
                  options.initial_values,
                  {},
                  {},
                  options.cu_seqlens,
                  options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                  options.chunk};
  call.dinitial_keys = options.dinitial_keys;
  call.dinitial_values = options.dinitial_values;
  call.dfinal_keys = options.dfinal_keys;
  call.dfinal_values = options.dfinal_values;
  return call;
}

/// gated_slot_backward for an instruction set of the caller's choice.
template <class A, class S>
void gated_slot_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                            view<const accumulator_t<S>, 4> s, view<const accumulator_t<S>, 4> g,
                            view<const accumulator_t<S>, 4> scores, view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk,
                            view<S, 4> dv, view<accumulator_t<S>, 4> ds, view<accumulator_t<S>, 4> dg,
                            const gated_slot_backward_options<S>& options) {
  static_assert(element<S>,
                "heed::gated_slot_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_slot_backward");
    check_recurrence_gradients(check, q, k, v, dout, dq, dk, dv, options.scale, options.chunk, options.cu_seqlens);
    check_slot_writes(check, q, k, s, g);
    const index_t slots = s.extent(3);
    check_slot_scores(check, q, scores, "scores", slots);
    check.output(ds, "ds");
    check.output(dg, "dg");
    for (int axis = 0; axis < 4; ++axis) {
      check.extent(ds, "ds", axis, s.extent(axis), "as s");
      check.extent(dg, "dg", axis, s.extent(axis), "as s");
    }
    slot_gradient_call<S> call = gated_slot_gradient_call(q, k, v, s, g, options);
    const index_t sequences = call.forward.streams().sequences;
    check_slots(check, options.initial_keys, "options.initial_keys", options.initial_values, "options.initial_values",
                sequences, k, v, slots);
    check_slots(check, options.dinitial_keys, "options.dinitial_keys", options.dinitial_values,
                "options.dinitial_values", sequences, k, v, slots);
    check_slots(check, options.dfinal_keys, "options.dfinal_keys", options.dfinal_values, "options.dfinal_values",
                sequences, k, v, slots);
    check_apart(check,
                memory_of(q, k, v, s, g, scores, dout, options.initial_keys, options.initial_values,
                          options.dfinal_keys, options.dfinal_values),
                dq, "dq", dk, "dk", dv, "dv", ds, "ds", dg, "dg", options.dinitial_keys, "options.dinitial_keys",
                options.dinitial_values, "options.dinitial_values");
    call.scores = scores;
    call.dout = dout;
    call.dq = dq;
    call.dk = dk;
    call.dv = dv;
    call.ds = ds;
    call.dg = dg;

    const slot_backward_chunks<A, S> chunks(call);
    recurrence_backward_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that gated_slot_backward needs for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t gated_slot_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                          const std::type_identity_t<view<const T, 4>>& k,
                                          const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                                          const std::type_identity_t<gated_slot_backward_options<T>>& options = {}) {
  const view<const accumulator_t<T>, 4> s(nullptr, {k.extent(0), k.extent(1), k.extent(2), slots});
  const auto call = detail::gated_slot_gradient_call<T>(q, k, v, s, s, options);
  const detail::slot_backward_chunks<A, T> chunks(call);
  return detail::recurrence_backward_run(chunks, detail::resolve(options.executor)).bytes();
}

/// Gradients of a loss by q, k, v, s and g, given those by out (and by the final slots): those of the reading of slot
/// values, of the softmax over slots, du = p (dp - p . dp), and of the reading of slot keys. s and g take part in both.
///
/// q, k, v, s, g      what gated_slot_forward was given
/// scores [B,H,N,S]   what it returned in options.scores
/// dout   [B,H,N,E]   gradient by out
/// dq     [B,H,N,D]   gradient by q, an output as are the others; none may overlap an input or another output
/// dk     [B,G,N,D]   gradient by k
/// dv     [B,G,N,E]   gradient by v. Element types are those of dq
/// ds, dg [B,G,N,S]   gradients by write strengths and log gates, float (double for double)
/// options            see gated_slot_backward_options
///
/// Legal edges: N = 0. A gate of 0 (g = -inf) has gradient 0.
/// Cost: 5 / 2 of gated_slot_forward; beyond 64 chunks the states are computed once more. One task a kv head. Scratch:
/// a worker O(chunk (D + E + S + chunk)) and 67 states, and one more for every 64 chunks of the longest sequence
/// (gated_slot_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 1e-4 (1 + max |gradient|) for inputs of unit
/// variance, of dg 5e-4 (1 + max |dg|).
/// Throws heed::invalid_argument before any write: as gated_slot_forward; extents of scores, dout and the gradients
/// that do not fit.
/// Paper: Zhang et al., Gated Slot Attention for Efficient Linear-Time Sequence Modeling, 2024, appendix A.
template <writable<4> DQ, writable<4> DK, writable<4> DV, writable<4> DS, writable<4> DG>
void gated_slot_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                         std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                         std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                         std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 4>> s,
                         std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 4>> g,
                         std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 4>> scores,
                         std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv, DS&& ds,
                         DG&& dg,
                         const std::type_identity_t<gated_slot_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::gated_slot_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, s, g, scores, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv),
      view_traits<std::remove_reference_t<DS>>::make(ds), view_traits<std::remove_reference_t<DG>>::make(dg), options);
}

HEED_ARCH_END
