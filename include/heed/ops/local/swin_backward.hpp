/// Gradients of attention within the windows of an image.
#pragma once

#include <heed/kernel/swin_backward_run.hpp>
#include <heed/kernel/swin_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// A gradient by a matrix, if it is asked for.
template <class S>
HEED_COLD void check_matrix_gradient(const checker& check, const view<S, 2>& gradient, const char* name,
                                     const view<const S, 2>& matrix, const char* matrix_name) {
  if (!gradient) return;
  check.require(static_cast<bool>(matrix), name, text("none without %s", matrix_name).c_str(), "an output");
  check.extent(gradient, name, 0, matrix.extent(0), text("as %s", matrix_name).c_str());
  check.extent(gradient, name, 1, matrix.extent(1), text("as %s", matrix_name).c_str());
  check.require(distinct_elements(gradient), name, "an output whose elements are distinct",
                "strides that make them overlap");
}

/// swin_backward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void swin_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const S, 4> out,
                      view<const accumulator_t<S>, 3> lse, view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk,
                      view<S, 4> dv, const swin_backward_options<S>& options) {
  const checker check("swin_backward");
  check_backward_queries<S>(check, q, out, lse, dout, dq, {}, {}, options.scale, 0);
  check_keys(check, q, k, v, out, "k", "v");
  check_key_gradients(check, k, v, dk, dv, "dk", "dv");
  const swin_call<S> call = checked_swin_call(check, q, k, v, options);
  check_matrix_gradient(check, options.dtable, "options.dtable", options.table, "options.table");
  check_matrix_gradient(check, options.dk_pad, "options.dk_pad", options.k_pad, "options.k_pad");
  check_matrix_gradient(check, options.dv_pad, "options.dv_pad", options.v_pad, "options.v_pad");
  const auto apart = [&](const auto& output, const char* name, const auto&... outputs) {
    check_aliasing(check, output, name, q, k, v, out, lse, dout, options.table, options.k_pad, options.v_pad,
                   outputs...);
  };
  apart(dq, "dq");
  apart(dk, "dk", dq);
  apart(dv, "dv", dq, dk);
  apart(options.dtable, "options.dtable", dq, dk, dv);
  apart(options.dk_pad, "options.dk_pad", dq, dk, dv, options.dtable);
  apart(options.dv_pad, "options.dv_pad", dq, dk, dv, options.dtable, options.dk_pad);

  const swin_gradients<S> gradients{out, lse, dout, dq, dk, dv, options.dtable, options.dk_pad, options.dv_pad};
  swin_backward_run<A, S>(call, gradients).run(check, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Scratch, in bytes, that swin_backward needs for tensors of these extents and these options. Data is not looked at.
template <element T, class A = default_arch>
index_t swin_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                    const std::type_identity_t<view<const T, 4>>& k,
                                    const std::type_identity_t<view<const T, 4>>& v,
                                    const std::type_identity_t<swin_backward_options<T>>& options = {}) {
  const detail::swin_call<T> call = detail::checked_swin_call(detail::checker("swin_backward"), q, k, v, options);
  detail::swin_gradients<T> gradients{};
  gradients.dtable = options.dtable;
  gradients.dk_pad = options.dk_pad;
  gradients.dv_pad = options.dv_pad;
  return detail::swin_backward_run<A, T>(call, gradients).bytes(detail::resolve(options.executor));
}

/// Gradients of a loss by q, k, v, the table and what stands in missing places, given that by out. With P_ij the weights
/// of swin_forward, dz_ij = P_ij (dout_i . v_j - dout_i . out_i):
///     dq_i = scale sum_j dz_ij k_j    dk_j = scale sum_i dz_ij q_i    dv_j = sum_i P_ij dout_i
///     dT[u,h] = sum of dz_ij over all pairs of head h with offset(i, j) = u
///
/// q, k, v            what swin_forward was given
/// out  [B,H,N,E]     what it returned
/// lse  [B,H,N]       and in options.lse; any strides
/// dout [B,H,N,E]     gradient by out
/// dq   [B,H,N,D]     gradient by q, an output as are dk and dv; none may overlap an input or another output
/// dk   [B,G,N,D]     gradient by k
/// dv   [B,G,N,E]     gradient by v. Element types are those of dq.
/// options            see swin_backward_options; dtable, dk_pad and dv_pad are outputs there
///
/// Legal edges: as swin_forward.
/// Cost: 5 / 2 of swin_forward. Scratch: besides what forward takes, that of a window's pairs for each head of a kv head
/// a worker, and the table for each of at most 256 parts of the windows (swin_backward_scratch_bytes): options.scratch,
/// or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads; sums over windows are cut by shapes.
/// Accuracy: that of softmax_backward with as many keys as a window has; dT sums in float within a part, in double over
/// parts.
/// Throws heed::invalid_argument before any write: all that swin_forward throws for, gradients whose extents do not fit,
/// a gradient by what is not there.
/// Paper: Liu et al., Swin Transformer, 2021; Zhang, Flash Window Attention, 2025.
template <writable<4> DQ, writable<4> DK, writable<4> DV>
void swin_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                   std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> lse,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                   const std::type_identity_t<swin_backward_options<element_of_t<DQ>>>& options = {}) {
  using S = element_of_t<DQ>;
  static_assert(element<S>, "heed::swin_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::swin_backward_on<default_arch, S>(q, k, v, out, lse, dout,
                                              view_traits<std::remove_reference_t<DQ>>::make(dq),
                                              view_traits<std::remove_reference_t<DK>>::make(dk),
                                              view_traits<std::remove_reference_t<DV>>::make(dv), options);
}

HEED_ARCH_END
