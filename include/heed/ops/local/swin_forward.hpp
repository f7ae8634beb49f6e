/// Attention within the windows of an image.
#pragma once

#include <heed/kernel/swin_checks.hpp>
#include <heed/kernel/swin_forward_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// swin_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void swin_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                     const swin_options<S>& options) {
  const checker check("swin_forward");
  check_queries(check, q, out, options.lse, {}, options.scale, 0);
  check_keys(check, q, k, v, out, "k", "v");
  const swin_call<S> call = checked_swin_call(check, q, k, v, options);
  check_aliasing(check, out, "out", q, k, v, options.table, options.k_pad, options.v_pad);
  check_aliasing(check, options.lse, "options.lse", q, k, v, options.table, options.k_pad, options.v_pad, out);
  swin_forward_run<A, S>(call).run(check, out, options.lse, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Scratch, in bytes, that swin_forward needs for tensors of these extents and these options: what `options.scratch`
/// must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t swin_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                   const std::type_identity_t<view<const T, 4>>& k,
                                   const std::type_identity_t<view<const T, 4>>& v,
                                   const std::type_identity_t<swin_options<T>>& options = {}) {
  const detail::swin_call<T> call = detail::checked_swin_call(detail::checker("swin_forward"), q, k, v, options);
  return detail::swin_forward_run<A, T>(call).bytes(detail::resolve(options.executor));
}

/// Window attention: each token attends to those of its window, a rectangle of a grid of tokens.
///     out[b,h,i,:] = sum_j softmax_j(scale q_i . k_j + T[offset(i, j),h]) v[b,g(h),j,:]
///
/// over the tokens j of i's window, g(h) = h / (H / G). Windows of h' x w' tokens tile the grid from its corner, or from
/// shift.y below and shift.x to the right of it; what this leaves at one end of an axis and at the other shares a window
/// and does not see each other.
///
/// q    [B,H,N,D]  queries; token i stands in row i / width of the grid (options.tokens), column i % width
/// k    [B,G,N,D]  keys; H a multiple of G
/// v    [B,G,N,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// options         see swin_options
///
/// Where the grid is not a multiple of the window, windows at its end have missing places: without keys, or with those
/// that options.padding gives them. Regions of shifted windows are those of the grid with its missing places. Along an
/// axis that is no longer than the window there is one window and no shift; the table counts offsets as ever.
///
/// Legal edges: B, H or N = 0. Keys and values of tokens that a query does not see never reach its result.
/// Cost: O(N h' w' (D + E)) per head; no copy of a tensor. Scratch: the bias of a window for each head, O(H (h' w')^2),
/// up to four times with a shift and nine with missing places; O(h' w' + D + E) a worker (swin_forward_scratch_bytes):
/// options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: that of softmax_forward with h' w' keys.
/// Throws heed::invalid_argument before any write: extents that do not fit each other or the grid, D or E zero, a strided
/// last axis, null data, overlap of an output, a scale that is not finite, a window of no or more than 2^15 rows or
/// columns, a shift outside of the window, a table of other extents, k_pad and v_pad without or missing from
/// swin_padding::attend, scratch too small.
/// Paper: Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, Swin Transformer: Hierarchical Vision Transformer using Shifted
/// Windows, 2021, section 3.2; Zhang, Flash Window Attention, 2025.
template <writable<4> Out>
void swin_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                  const std::type_identity_t<swin_options<element_of_t<Out>>>& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::swin_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::swin_forward_on<default_arch, S>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
