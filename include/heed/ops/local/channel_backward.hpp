/// Gradients of channel attention.
#pragma once

#include <heed/core/channel_options.hpp>
#include <heed/kernel/channel_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// channel_backward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void channel_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const S, 4> dout,
                         view<S, 4> dq, view<S, 4> dk, view<S, 4> dv, const channel_backward_options& options) {
  const checker check("channel_backward");
  const channel_call<S> call = checked_channel_call(check, q, k, v, options.scale);
  check.tensor(dout, "dout");
  check.output(dq, "dq");
  check.output(dk, "dk");
  check.output(dv, "dv");
  for (int axis = 0; axis < 4; ++axis) {
    check.extent(dout, "dout", axis, q.extent(axis), "as q");
    check.extent(dq, "dq", axis, q.extent(axis), "as q");
    check.extent(dk, "dk", axis, q.extent(axis), "as q");
    check.extent(dv, "dv", axis, q.extent(axis), "as q");
  }
  check_aliasing(check, dq, "dq", q, k, v, dout);
  check_aliasing(check, dk, "dk", q, k, v, dout, dq);
  check_aliasing(check, dv, "dv", q, k, v, dout, dq, dk);
  channel_run<A, S>(call, true).backward(check, {dout, dq, dk, dv}, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Scratch, in bytes, that channel_backward needs for tensors of these extents and these options. Data is not looked at.
template <element T, class A = default_arch>
index_t channel_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                       const channel_backward_options& options = {}) {
  const detail::channel_call<T> call{q, q, q, 1};
  return detail::channel_run<A, T>(call, true).bytes(detail::resolve(options.executor));
}

/// Gradients of a loss by q, k and v, given that by out. With A the weights of channel_forward, which are computed anew:
///     dA_ac = sum_n dout_na v_nc    dz_ac = A_ac (dA_ac - sum_e A_ae dA_ae)
///     dq_na = scale sum_c dz_ac k_nc    dk_nc = scale sum_a dz_ac q_na    dv_nc = sum_a A_ac dout_na
///
/// q, k, v            what channel_forward was given
/// dout [B,H,N,C]     gradient by out
/// dq   [B,H,N,C]     gradient by q, an output as are dk and dv; none may overlap an input or another output
/// dk   [B,H,N,C]     gradient by k
/// dv   [B,H,N,C]     gradient by v. Element types are those of dq.
/// options            see channel_backward_options
///
/// Legal edges: as channel_forward.
/// Cost: 5 / 2 of channel_forward. Scratch: O(C) a worker and twice that of forward a group
/// (channel_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: sums as channel_forward does.
/// Throws heed::invalid_argument before any write: all that channel_forward throws for, gradients whose extents do not
/// fit.
/// Paper: Ding et al., DaViT, 2022.
template <writable<4> DQ, writable<4> DK, writable<4> DV>
void channel_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                      const channel_backward_options& options = {}) {
  using S = element_of_t<DQ>;
  static_assert(element<S>, "heed::channel_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::channel_backward_on<default_arch, S>(q, k, v, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
                                                 view_traits<std::remove_reference_t<DK>>::make(dk),
                                                 view_traits<std::remove_reference_t<DV>>::make(dv), options);
}

HEED_ARCH_END
