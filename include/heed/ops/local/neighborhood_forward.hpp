/// Neighborhood attention on grids of tokens of rank 1, 2 or 3.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/neighborhood_options.hpp>
#include <heed/kernel/neighborhood_checks.hpp>
#include <heed/kernel/neighborhood_forward_run.hpp>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that neighborhood_forward needs for these head sizes and options: what `options.scratch` must hold.
/// Depends on D, E, the element type, the size of the table of relative positions, and the executor's concurrency.
template <element T, class A = default_arch>
index_t neighborhood_forward_scratch_bytes(index_t features, index_t value_features,
                                           const std::type_identity_t<neighborhood_options<T>>& options = {}) {
  const index_t share = detail::neighborhood_worker_bytes<T, A>(features, value_features, options.bias.extent(1));
  return detail::scratch_total(share, detail::resolve(options.executor).concurrency);
}

namespace detail {

/// neighborhood_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void neighborhood_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                             const neighborhood_axes& axes, const neighborhood_options<S>& options) {
  static_assert(element<S>,
                "heed::neighborhood_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("neighborhood_forward");
    check_queries(check, q, out, options.lse, {}, options.scale, options.softcap);
    check_neighborhood(check, axes, q.extent(2));
    check_neighborhood_keys(check, q, k, v, out, options.k_extra, options.v_extra);
    if (options.bias) check_relative_table(check, axes, q.extent(1), options.bias, "options.bias");
    check_aliasing(check, out, "out", q, k, v, options.bias, options.k_extra, options.v_extra);
    check_aliasing(check, options.lse, "options.lse", q, k, v, options.bias, options.k_extra, options.v_extra, out);

    const neighborhood_rows<S> rows{q, out, options.lse, options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                    options.softcap};
    const neighborhood_keys<S> keys{k, v, options.k_extra, options.v_extra, options.bias};
    neighborhood_forward_run<A, S>(rows, keys, axes).run(check, options.scratch, resolve(options.executor));
  }
}

}  // namespace detail

/// Neighborhood attention: out[b,h,i,:] = sum_j softmax_j(z[b,h,i,j]) v[b,g(h),j,:]
///
/// over the keys j in the neighborhood of query i, z = softcap(scale q_i . k_j) + bias[h, position of j relative to i],
/// and the extra keys, g(h) = h / (H / G). Queries and keys are the N tokens of a grid, row-major, last axis fastest. A
/// key is in the neighborhood if it is so on every axis: same residue modulo dilation and, with coordinates divided by
/// it, within `window` keys around the query, which shift at the borders so that there are always `window` of them. See
/// heed::neighborhood for the formula, strides and causal axes.
///
/// q    [B,H,N,D]  queries
/// k    [B,G,N,D]  keys; H a multiple of G
/// v    [B,G,N,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// axes            1 to 3 of neighborhood_axis, N the product of their lengths; one alone needs no list
/// options         see neighborhood_options
///
/// The result is that of softmax_forward with the mask heed::neighborhood, up to rounding.
/// Legal edges: B = 0, H = 0. Keys and values that a query does not see never reach its result, whatever they hold.
/// Cost: O(B H N w (D + E)), w the product of the windows; boxes of queries share their keys, and pairs in a box that do
/// not see each other cost as much. Scratch O(D + E) a worker and the size of the table
/// (neighborhood_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_forward, of w keys.
/// Throws heed::invalid_argument before any write: extents that do not fit each other or the axes, D or E zero, a strided
/// last axis, null data, overlap of an output, scale or softcap not finite, softcap < 0, other than 1 to 3 axes, window
/// < 2, stride not in 1..window, dilation < 1, window * dilation > length, 2^30 tokens or more, a bias on a strided or
/// causal axis, k_extra without v_extra, scratch too small.
/// Paper: Hassani et al., Neighborhood Attention Transformer, 2023; Hassani, Hwu, Shi, Faster Neighborhood Attention,
/// 2024; Hassani et al., Generalized Neighborhood Attention, 2025, for the stride.
template <writable<4> Out>
void neighborhood_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                          const neighborhood_axes& axes,
                          const std::type_identity_t<neighborhood_options<element_of_t<Out>>>& options = {}) {
  detail::neighborhood_forward_on<default_arch>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), axes,
                                                options);
}

HEED_ARCH_END
