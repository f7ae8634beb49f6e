/// Channel attention: channels attend to channels, over all positions.
#pragma once

#include <heed/core/channel_options.hpp>
#include <heed/kernel/channel_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// channel_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void channel_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                        const channel_options& options) {
  const checker check("channel_forward");
  const channel_call<S> call = checked_channel_call(check, q, k, v, options.scale);
  check.output(out, "out");
  for (int axis = 0; axis < 4; ++axis) check.extent(out, "out", axis, q.extent(axis), "as q");
  check_aliasing(check, out, "out", q, k, v);
  channel_run<A, S>(call, false).forward(check, out, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Scratch, in bytes, that channel_forward needs for tensors of these extents and these options: what `options.scratch`
/// must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t channel_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                      const channel_options& options = {}) {
  const detail::channel_call<T> call{q, q, q, 1};
  return detail::channel_run<A, T>(call, false).bytes(detail::resolve(options.executor));
}

/// Channel attention: out[b,h,n,a] = sum_c softmax_c(scale sum_m q[b,h,m,a] k[b,h,m,c]) v[b,h,n,c]
///
/// Attention whose tokens are the channels of a group and whose features are the N positions: every channel looks at
/// the whole image, at a cost linear in N.
///
/// q    [B,H,N,C]  queries; H groups of C channels
/// k    [B,H,N,C]  keys
/// v    [B,H,N,C]  values
/// out  [B,H,N,C]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// options         see channel_options
///
/// There is no causal form: every position has a part in the weights. The first release of DaViT names projections
/// otherwise: pass its k, v and q as q, k and v. Later models of the family have a scale of N^-1/2.
///
/// Legal edges: B, H or N = 0.
/// Cost: O(N C^2) a group; no copy of a tensor. Scratch: O(C) a worker and C^2 numbers a group, or for each of up to 32
/// parts of the positions where B H is small (channel_forward_scratch_bytes): options.scratch, or memory that the thread
/// keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: sums over positions in float (double for double) over blocks of 64, then over blocks: the error of a score
/// is below 2 u scale (8 + sqrt(64 + N / 64)) sum_n |q k|, u = 2^-24 (2^-53), and moves out as that of softmax_forward
/// does.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, C zero, a strided last axis, null
/// data, overlap of an output, a scale that is not finite, scratch too small.
/// Paper: Ding, Xiao, Codella, Luo, Wang, Yuan, DaViT: Dual Attention Vision Transformers, 2022, eq. 3.
template <writable<4> Out>
void channel_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                     const channel_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::channel_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::channel_forward_on<default_arch, S>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
