/// Gradients of neighborhood attention.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/neighborhood_options.hpp>
#include <heed/kernel/neighborhood_backward_run.hpp>
#include <heed/kernel/neighborhood_checks.hpp>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that neighborhood_backward needs for tensors of these extents, these axes and options: what
/// `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t neighborhood_backward_scratch_bytes(
    const std::type_identity_t<view<const T, 4>>& q, const std::type_identity_t<view<const T, 4>>& k,
    const std::type_identity_t<view<const T, 4>>& v, const neighborhood_axes& axes,
    const std::type_identity_t<neighborhood_backward_options<T>>& options = {}) {
  const detail::neighborhood_gradient_rows<T> rows{
      q, v, {}, {}, {}, {}, {}, {}, {}, {}, options.dbias, 1, options.softcap};
  const detail::neighborhood_keys<T> keys{k, v, options.k_extra, options.v_extra, options.bias};
  return detail::neighborhood_backward_run<A, T>(rows, keys, axes).bytes(detail::resolve(options.executor));
}

namespace detail {

/// neighborhood_backward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void neighborhood_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const S, 4> out,
                              view<const accumulator_t<S>, 3> lse, view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk,
                              view<S, 4> dv, const neighborhood_axes& axes,
                              const neighborhood_backward_options<S>& options) {
  static_assert(element<S>,
                "heed::neighborhood_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("neighborhood_backward");
    check_backward_queries(check, q, out, lse, dout, dq, options.dlse, {}, options.scale, options.softcap);
    check_neighborhood(check, axes, q.extent(2));
    check_neighborhood_keys(check, q, k, v, out, options.k_extra, options.v_extra);
    check_key_gradients(check, k, v, dk, dv, "dk", "dv");
    const bool extra = static_cast<bool>(options.k_extra);
    check.require(static_cast<bool>(options.dk_extra) == extra && static_cast<bool>(options.dv_extra) == extra,
                  "options.dk_extra, dv_extra", extra ? "outputs, as there is k_extra" : "none without k_extra",
                  extra ? "none" : "outputs");
    if (extra)
      check_key_gradients(check, options.k_extra, options.v_extra, options.dk_extra, options.dv_extra,
                          "options.dk_extra", "options.dv_extra");
    if (options.bias) check_relative_table(check, axes, q.extent(1), options.bias, "options.bias");
    if (options.dbias) {
      check.require(static_cast<bool>(options.bias), "options.dbias", "none without a bias", "an output");
      check_relative_table(check, axes, q.extent(1), options.dbias, "options.dbias");
      check.output(options.dbias, "options.dbias");
    }
    const auto apart = [&](const auto& output, const char* name, const auto&... others) {
      check_aliasing(check, output, name, q, k, v, out, lse, dout, options.bias, options.dlse, options.k_extra,
                     options.v_extra, others...);
    };
    apart(dq, "dq");
    apart(dk, "dk", dq);
    apart(dv, "dv", dq, dk);
    apart(options.dbias, "options.dbias", dq, dk, dv);
    apart(options.dk_extra, "options.dk_extra", dq, dk, dv, options.dbias);
    apart(options.dv_extra, "options.dv_extra", dq, dk, dv, options.dbias, options.dk_extra);

    const neighborhood_gradient_rows<S> rows{q,
                                             out,
                                             lse,
                                             dout,
                                             options.dlse,
                                             dq,
                                             dk,
                                             dv,
                                             options.dk_extra,
                                             options.dv_extra,
                                             options.dbias,
                                             options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                             options.softcap};
    const neighborhood_keys<S> keys{k, v, options.k_extra, options.v_extra, options.bias};
    neighborhood_backward_run<A, S>(rows, keys, axes).run(check, options.scratch, resolve(options.executor));
  }
}

}  // namespace detail

/// Gradients of a loss by q, k and v, given those by out (and by lse), of neighborhood_forward.
///
/// With P_ij = exp(z_ij - lse_i) over the keys that query i sees, and z as in neighborhood_forward:
///     dz_ij = P_ij (dout_i . v_j - dout_i . out_i + dlse_i)           ds_ij = dz_ij times the slope of z in scale q.k
///     dq_i = scale sum_j ds_ij k_j     dk_j = scale sum_i ds_ij q_i     dv_j = sum_i P_ij dout_i
///     dbias[h,r] = sum of dz_ij over the pairs of head h whose relative position is r
/// where the sums of dk and dv go over all queries of the H / G heads that share a kv head.
///
/// q    [B,H,N,D]  queries         k    [B,G,N,D]  keys          v    [B,G,N,E]  values: what
///                 neighborhood_forward was given, with the same axes
/// out  [B,H,N,E]  what neighborhood_forward returned
/// lse  [B,H,N]    what it returned in options.lse
/// dout [B,H,N,E]  gradient by out
/// dq   [B,H,N,D]  gradient by q, an output as are dk and dv; none may overlap an input or another output
/// dk   [B,G,N,D]  gradient by k
/// dv   [B,G,N,E]  gradient by v. Element types are those of dq.
/// options         see neighborhood_backward_options
///
/// Legal edges: B = 0, H = 0. Pairs that do not see each other take no part, whatever they hold.
/// Cost: 5 / 2 of neighborhood_forward, with dbias 7 / 2. Scratch O(D + E) a worker; where B times the kv heads times
/// the product of the dilations is below 16, up to 16 partial sums of the size of dk and dv in the accumulator's type,
/// 64 MiB of them or two; for 16-bit types besides, dk and dv of one kv head a worker in float; 16 sums or more of the
/// size of dk_extra and dv_extra (neighborhood_backward_scratch_bytes): options.scratch, or memory that the thread
/// keeps. The gradient by the table keeps as many workers busy as there are heads.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double), as softmax_backward.
/// Throws heed::invalid_argument before any write: all that neighborhood_forward throws for, lse missing, extents of
/// out, lse, dout, dlse and the gradients that do not fit, dbias without a bias, gradients of extra keys without these
/// or the other way round.
/// Paper: Hassani et al., Neighborhood Attention Transformer, 2023; Hassani, Hwu, Shi, Faster Neighborhood Attention,
/// 2024.
template <writable<4> DQ, writable<4> DK, writable<4> DV>
void neighborhood_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                           std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> lse,
                           std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                           const neighborhood_axes& axes,
                           const std::type_identity_t<neighborhood_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::neighborhood_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, out, lse, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv), axes,
      options);
}

HEED_ARCH_END
