/// Gradients of gated linear attention.
#pragma once

#include <heed/kernel/gated_gradient_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// gated_linear_backward for an instruction set of the caller's choice.
template <class A, gate_kind Kind, class S>
void gated_linear_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                              gate_view<Kind, const accumulator_t<S>> g, view<const S, 4> dout, view<S, 4> dq,
                              view<S, 4> dk, view<S, 4> dv, gate_view<Kind, accumulator_t<S>> dg,
                              const recurrence_backward_options<S>& options) {
  static_assert(element<S>,
                "heed::gated_linear_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_linear_backward");
    check_recurrence_gradients(check, q, k, v, dout, dq, dk, dv, options.scale, options.chunk, options.cu_seqlens);
    check_gates<Kind>(check, g, k);
    check_gate_gradients<Kind>(check, dg, g);
    const auto call = gated_gradient_call<Kind>(q, k, v, g, dout, dq, dk, dv, dg, options);
    check_states(check, call.forward, options);
    check_apart(check, memory_of(q, k, v, g, dout, options.initial_state, options.dfinal_state), dq, "dq", dk, "dk", dv,
                "dv", dg, "dg", options.dinitial_state, "options.dinitial_state");

    const linear_backward_chunks<A, S, Kind> chunks(call);
    recurrence_backward_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

template <class A, gate_kind Kind, class S>
index_t gated_linear_backward_bytes(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                    const recurrence_backward_options<S>& options) noexcept {
  const auto call = gated_gradient_call<Kind, S>(q, k, v, {}, {}, {}, {}, {}, {}, options);
  const linear_backward_chunks<A, S, Kind> chunks(call);
  return recurrence_backward_run(chunks, resolve(options.executor)).bytes();
}

}  // namespace detail

/// Scratch, in bytes, that gated_linear_backward needs for tensors of these extents and these options, with a gate a
/// key feature; gates of one number a token take no more.
template <element T, class A = default_arch>
index_t gated_linear_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                            const std::type_identity_t<view<const T, 4>>& k,
                                            const std::type_identity_t<view<const T, 4>>& v,
                                            const std::type_identity_t<recurrence_backward_options<T>>& options = {}) {
  return detail::gated_linear_backward_bytes<A, detail::gate_kind::feature, T>(q, k, v, options);
}

/// Gradients of a loss by q, k, v and g, given those by out (and by the final state).
///
/// With G_t the gradient by R_t of gated_linear_forward, from G_{N-1} = dfinal_state + scale q dout^T back:
///     G_t = diag(exp g_{t+1}) G_{t+1} + scale q_t dout_t^T
///     dq_t = scale R_t dout_t     dk_t = G_t v_t     dv_t = G_t^T k_t     dg_t = rowsum(G_t (R_t - k_t v_t^T))
///     dinitial_state = diag(exp g_0) G_0
/// where the sums of G go over the H / G heads that share a state.
///
/// q, k, v, g      what gated_linear_forward was given, with N = M
/// dout [B,H,N,E]  gradient by out
/// dq   [B,H,N,D]  gradient by q, an output as are dk, dv and dg; none may overlap an input or another output
/// dk   [B,G,N,D]  gradient by k
/// dv   [B,G,N,E]  gradient by v. Element types are those of dq
/// dg   [B,G,N,D]  gradient by the log gates, float (double for double)
/// options         see recurrence_backward_options
///
/// Legal edges: N = 0 (dinitial_state = dfinal_state). A gate of 0 (g = -inf) has gradient 0.
/// Cost: 5 / 2 of gated_linear_forward; beyond 64 chunks the states are computed once more. One task a kv head.
/// Scratch: a worker O(chunk (D + E + chunk)) and 67 states, and one more for every 64 chunks of the longest sequence
/// (gated_linear_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 1e-4 (1 + max |gradient|) for inputs of unit
/// variance, of dg 5e-4 (1 + max |dg|).
/// Throws heed::invalid_argument before any write: as gated_linear_forward; extents of dout and the gradients that do
/// not fit.
/// Paper: Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2024, section 4.4.
template <writable<4> DQ, writable<4> DK, writable<4> DV, writable<4> DG>
void gated_linear_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                           std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 4>> g,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                           DG&& dg,
                           const std::type_identity_t<recurrence_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::gated_linear_backward_on<default_arch, detail::gate_kind::feature, element_of_t<DQ>>(
      q, k, v, g, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv),
      view_traits<std::remove_reference_t<DG>>::make(dg), options);
}

/// The same with one gate a token, g and dg [B,G,N].
template <writable<4> DQ, writable<4> DK, writable<4> DV, writable<3> DG>
void gated_linear_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                           std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> g,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                           DG&& dg,
                           const std::type_identity_t<recurrence_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::gated_linear_backward_on<default_arch, detail::gate_kind::token, element_of_t<DQ>>(
      q, k, v, g, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv),
      view_traits<std::remove_reference_t<DG>>::make(dg), options);
}

HEED_ARCH_END
