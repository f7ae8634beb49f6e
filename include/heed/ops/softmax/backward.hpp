/// Gradients of exact softmax attention.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/softmax_backward_options.hpp>
#include <heed/kernel/softmax_backward_run.hpp>
#include <heed/kernel/softmax_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S, class... Mods>
inline constexpr bool are_backward_mods =
    mask_count<Mods...> <= 1 && (... && (is_mask<Mods> || is_differentiable_mod<Mods, accumulator_t<S>>));

/// Keys without a mask and without data: all that sizes of scratch depend on.
template <class S>
softmax_gradient_segment<S, sees_all> gradient_segment_extents(const view<const S, 4>& k, const view<const S, 4>& v,
                                                               const sequence_offsets& cu_k) noexcept {
  return {{{k, v, cu_k}, {-1, -1, no_mask}, {}, 0, {}, 1},
          {nullptr, {k.extent(0), k.extent(1), k.extent(2), k.extent(3)}},
          {nullptr, {v.extent(0), v.extent(1), v.extent(2), v.extent(3)}}};
}

}  // namespace detail

/// Scratch, in bytes, that softmax_backward needs for tensors of these extents, these options and mods: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch, class... Mods>
index_t softmax_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                       const std::type_identity_t<view<const T, 4>>& k,
                                       const std::type_identity_t<view<const T, 4>>& v,
                                       const std::type_identity_t<softmax_backward_options<T>>& options = {},
                                       const Mods&... mods) {
  const detail::softmax_gradient_rows<T> rows{
      q, v, {}, {}, {}, {}, options.bias, {}, {}, options.dbias, 1, options.cu_seqlens_q};
  const auto segment = detail::gradient_segment_extents<T>(k, v, options.cu_seqlens_k);
  const auto each = [&](const auto& f) { f(segment); };
  return detail::softmax_backward_bytes<A>(rows, each, detail::find_score_mods(options.softcap, mods...),
                                           detail::resolve(options.executor));
}

namespace detail {

/// softmax_backward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S, class... Mods>
void softmax_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const S, 4> out,
                         view<const accumulator_t<S>, 3> lse, view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk,
                         view<S, 4> dv, const softmax_backward_options<S>& options, const Mods&... mods) {
  static_assert(element<S>, "heed::softmax_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(mask_count<Mods...> <= 1, "heed::softmax_backward: at most one mask; compose masks with &, | and !");
  static_assert(
      (... && (is_mask<Mods> || is_differentiable_mod<Mods, accumulator_t<S>>)),
      "heed::softmax_backward: a mod must be callable as mask(position) -> bool or score_mod(score, position) -> "
      "score, the latter with scores that are heed::dual numbers: write it with `auto`");
  if constexpr (element<S> && are_backward_mods<S, Mods...>) {
    const checker check("softmax_backward");
    check_backward_queries(check, q, out, lse, dout, dq, options.dlse, options.sink, options.scale, options.softcap);
    check_keys(check, q, k, v, out, "k", "v");
    check_key_gradients(check, k, v, dk, dv, "dk", "dv");
    check_positions(check, q.extent(2), k.extent(2), options.q_offset, options.kv_offset);
    check_window(check, options.window_left, options.window_right);
    check_packed(check, q, k, options.cu_seqlens_q, options.cu_seqlens_k, static_cast<bool>(options.bias));
    const view<const S, 4> bias =
        broadcast_bias(check, options.bias, q.extent(0), q.extent(1), q.extent(2), k.extent(2));
    check_sink_gradient(check, q, options.sink, options.dsink);
    check_bias_gradient(check, options.bias, options.dbias);
    const auto inputs_apart = [&](const auto& output, const char* name) {
      check_aliasing(check, output, name, q, k, v, out, lse, dout, options.bias, options.sink, options.dlse);
    };
    inputs_apart(dq, "dq");
    inputs_apart(dk, "dk");
    inputs_apart(dv, "dv");
    inputs_apart(options.dsink, "options.dsink");
    inputs_apart(options.dbias, "options.dbias");
    check_aliasing(check, dk, "dk", dq);
    check_aliasing(check, dv, "dv", dq, dk);
    check_aliasing(check, options.dsink, "options.dsink", dq, dk, dv);
    check_aliasing(check, options.dbias, "options.dbias", dq, dk, dv, options.dsink);

    const softmax_gradient_rows<S> rows{q,
                                        out,
                                        lse,
                                        dout,
                                        options.dlse,
                                        options.sink,
                                        bias,
                                        dq,
                                        options.dsink,
                                        options.dbias,
                                        options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                        options.cu_seqlens_q};
    const auto& mask = find_mask(mods...);
    using mask_type = std::remove_cvref_t<decltype(mask)>;
    const softmax_gradient_segment<S, mask_type> segment{{{k, v, options.cu_seqlens_k},
                                                          {options.window_left, options.window_right, mask},
                                                          options.q_offset,
                                                          options.kv_offset,
                                                          {},
                                                          1},
                                                         dk,
                                                         dv};
    run_softmax_backward<A>(
        check, rows, [&](const auto& f) { f(segment); }, find_score_mods(options.softcap, mods...), options.scratch,
        resolve(options.executor));
  }
}

}  // namespace detail

/// Gradients of a loss by q, k and v, given those by out (and by lse).
///
/// With P_ij = exp(z_ij - lse_i), of visible pairs, and z as in softmax_forward:
///     dz_ij = P_ij (dout_i . v_j - dout_i . out_i + dlse_i)           ds_ij = dz_ij times the slope of z in scale q.k
///     dq_i = scale sum_j ds_ij k_j     dk_j = scale sum_i ds_ij q_i     dv_j = sum_i P_ij dout_i
/// where the sums of dk and dv go over all queries of the H / G heads that share a kv head.
///
/// q    [B,H,N,D]  queries         k    [B,G,M,D]  keys          v    [B,G,M,E]  values: what
///                 softmax_forward was given
/// out  [B,H,N,E]  what softmax_forward returned
/// lse  [B,H,N]    what it returned in options.lse
/// dout [B,H,N,E]  gradient by out
/// dq   [B,H,N,D]  gradient by q, an output as are dk and dv; none may overlap an input or another output
/// dk   [B,G,M,D]  gradient by k
/// dv   [B,G,M,E]  gradient by v. Element types are those of dq.
/// options         see softmax_backward_options
/// mods            those of the forward call. Score mods are called with heed::dual numbers, so their parameters must
///                 be `auto`; masks are not differentiated.
///
/// Legal edges: N = 0, M = 0. Rows that see nothing (lse = -inf) have gradient 0, and ignore their dout and dlse. In a
/// packed batch, rows past the last offset are left as they are. Excluded pairs take no part, whatever their queries,
/// keys, values and upstream gradients hold.
/// Cost: 5 / 2 of softmax_forward, with dbias 7 / 2. Scratch O(D + E) a worker; where B times the kv heads is below 16,
/// up to 16 partial sums of the size of dk and dv in the accumulator's type, 64 MiB of them or two a head; for 16-bit
/// types besides, dk and dv of one kv head a worker in float (softmax_backward_scratch_bytes): options.scratch, or
/// memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double); each gradient is within twice the bound of docs/softmax.md.
/// Throws heed::invalid_argument before any write: all that softmax_forward throws for, lse missing, extents of out,
/// lse, dout, dlse and the gradients that do not fit, dsink without a sink, dbias without a bias.
/// Paper: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021; Dao et al., FlashAttention, 2022,
/// algorithm 4.
template <writable<4> DQ, writable<4> DK, writable<4> DV, class... Mods>
void softmax_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                      std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> lse,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                      const std::type_identity_t<softmax_backward_options<element_of_t<DQ>>>& options = {},
                      const Mods&... mods) {
  detail::softmax_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, out, lse, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv), options,
      mods...);
}

HEED_ARCH_END
