/// Exact softmax attention, whole sequences.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/softmax_options.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_run.hpp>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that softmax_forward needs for these head sizes and options: what `options.scratch` must hold.
/// Depends on D, E, the element type, whether there is a bias, and the executor's concurrency; not on B, H, N or M.
template <element T, class A = default_arch>
index_t softmax_forward_scratch_bytes(index_t features, index_t value_features,
                                      const std::type_identity_t<softmax_options<T>>& options = {}) {
  const index_t share = detail::softmax_worker_bytes<T, A>(
      features, value_features, !std::is_same_v<T, accumulator_t<T>>, static_cast<bool>(options.bias), false);
  return detail::scratch_total(share, detail::resolve(options.executor).concurrency);
}

/// The same over a cache. Depends besides on the format of its rows, not on what it holds.
template <element T, class A = default_arch, key_value_cache C>
index_t softmax_forward_scratch_bytes(const C& cache, const std::type_identity_t<softmax_options<T>>& options = {}) {
  using source = typename detail::cached_keys<C>::source_type;
  const index_t share = detail::softmax_worker_bytes<T, A>(
      cache.features(), cache.value_features(), detail::converts_rows<source, accumulator_t<T>>, false, false);
  return detail::scratch_total(share, detail::resolve(options.executor).concurrency);
}

namespace detail {

/// softmax_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S, class... Mods>
void softmax_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                        const softmax_options<S>& options, const Mods&... mods) {
  static_assert(element<S>, "heed::softmax_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(mask_count<Mods...> <= 1, "heed::softmax_forward: at most one mask; compose masks with &, | and !");
  static_assert(
      (... && (is_mask<Mods> || is_score_mod<Mods, accumulator_t<S>>)),
      "heed::softmax_forward: a mod must be callable as mask(position) -> bool or score_mod(score, position) -> score");
  if constexpr (element<S> && mask_count<Mods...> <= 1 &&
                (... && (is_mask<Mods> || is_score_mod<Mods, accumulator_t<S>>))) {
    const checker check("softmax_forward");
    check_queries(check, q, out, options.lse, options.sink, options.scale, options.softcap);
    check_keys(check, q, k, v, out, "k", "v");
    check_positions(check, q.extent(2), k.extent(2), options.q_offset, options.kv_offset);
    check_window(check, options.window_left, options.window_right);
    check_packed(check, q, k, options.cu_seqlens_q, options.cu_seqlens_k, static_cast<bool>(options.bias));
    const view<const S, 4> bias =
        broadcast_bias(check, options.bias, q.extent(0), q.extent(1), q.extent(2), k.extent(2));
    check_aliasing(check, out, "out", q, k, v, options.bias);
    check_aliasing(check, options.lse, "options.lse", q, k, v, options.bias, out);

    const softmax_rows<S> rows{q,
                               out,
                               options.lse,
                               options.sink,
                               bias,
                               options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                               options.cu_seqlens_q};
    const auto& mask = find_mask(mods...);
    using mask_type = std::remove_cvref_t<decltype(mask)>;
    const softmax_segment_rows<accumulator_t<S>, dense_keys<S>, mask_type> segment{
        {k, v, options.cu_seqlens_k},
        {options.window_left, options.window_right, mask},
        options.q_offset,
        options.kv_offset,
        {},
        1};
    run_softmax<A>(
        check, rows, [&](const auto& f) { f(segment); }, false, find_score_mods(options.softcap, mods...),
        options.scratch, resolve(options.executor));
  }
}

/// The pieces of a cache as segments, each under the window and mask of the call.
template <class S, class C, class Mask>
auto cache_segments(const C& cache, const softmax_options<S>& options, const Mask& mask) noexcept {
  return [&cache, &options, &mask](const auto& f) {
    for (int piece = 0; piece < C::pieces; ++piece)
      f(softmax_segment_rows<accumulator_t<S>, cached_keys<C>, Mask>{{cache, piece},
                                                                     {options.window_left, options.window_right, mask},
                                                                     options.q_offset,
                                                                     options.kv_offset,
                                                                     {},
                                                                     1});
  };
}

/// softmax_forward over a cache, for an instruction set of the caller's choice.
template <class A, class S, class C, class... Mods>
void softmax_forward_on(view<const S, 4> q, const C& cache, view<S, 4> out, const softmax_options<S>& options,
                        const Mods&... mods) {
  static_assert(element<S>, "heed::softmax_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(!element<S> || are_mods<S, Mods...>,
                "heed::softmax_forward: mods are at most one mask(position) -> "
                "bool, and score_mod(score, position) -> score");
  if constexpr (element<S> && are_mods<S, Mods...>) {
    const checker check("softmax_forward");
    check_queries(check, q, out, options.lse, options.sink, options.scale, options.softcap);
    check_window(check, options.window_left, options.window_right);
    check_cache(check, q, cache, out, options.q_offset, options.kv_offset, options.cu_seqlens_q);
    check.require(!options.bias, "options.bias", "none beside a cache (use a score mod)", "a bias");
    check.require(!options.cu_seqlens_k, "options.cu_seqlens_k", "none beside a cache, which has its own", "offsets");
    check_aliasing(check, out, "out", q);
    check_aliasing(check, options.lse, "options.lse", q, out);

    const softmax_rows<S> rows{q,
                               out,
                               options.lse,
                               options.sink,
                               {},
                               options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                               options.cu_seqlens_q};
    run_softmax<A>(check, rows, cache_segments(cache, options, find_mask(mods...)), false,
                   find_score_mods(options.softcap, mods...), options.scratch, resolve(options.executor));
  }
}

}  // namespace detail

/// Softmax attention: out[b,h,i,:] = sum_j softmax_j(z[b,h,i,j]) v[b,g(h),j,:]
///
/// with z = score_mod(softcap(scale q_i . k_j) + bias_ij) over the visible keys j, g(h) = h / (H / G).
///
/// q    [B,H,N,D]  queries
/// k    [B,G,M,D]  keys; H a multiple of G (G = H: multi-head, G = 1: multi-query)
/// v    [B,G,M,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// options         see softmax_options
/// mods            in any order: at most one mask, callable as mask(at) -> bool, and score mods, callable as
///                 mod(score, at) -> score and applied left to right (docs/mods.md)
///
/// Position of query i: i + q_offset (default M - N), of key j: j + kv_offset. Causal is `heed::causal{}` or
/// window_right = 0.
///
/// Legal edges: N = 0, M = 0, rows that see nothing (out = 0, lse = -inf; with a sink lse = sink).
/// Keys and values of excluded pairs never reach the result, whatever they hold.
/// Cost: O(N M (D + E)) per head for what the mask leaves; tiles it excludes are skipped. Scratch O(D + E) a worker,
/// independent of N and M (softmax_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double); error of out below 2 u (sqrt(D) max|s| + 8 + sqrt(M / 128))
/// sum_j P |v|, u = 2^-24 (2^-53), plus the rounding of out to its type.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, D or E zero, a strided last
/// axis, null data, overlap of an output, scale or softcap not finite, softcap < 0, window < -1, positions beyond int,
/// bad cu_seqlens, a bias beside cu_seqlens, a sink that is NaN or +inf, scratch too small.
/// Paper: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021; Dao et al., FlashAttention, 2022,
/// algorithm 1; Dong et al., Flex Attention, 2024; Shazeer, Fast Transformer Decoding: One Write-Head is All You Need,
/// 2019.
template <writable<4> Out, class... Mods>
void softmax_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                     const std::type_identity_t<softmax_options<element_of_t<Out>>>& options = {},
                     const Mods&... mods) {
  detail::softmax_forward_on<default_arch>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options,
                                           mods...);
}

/// The same over a cache (docs/cache.md), whose rows may be of any format: the tokens of a prompt that comes in chunks,
/// or that shares a prefix. Positions of keys are those of the cache plus kv_offset, and the newest key of a sequence
/// is at the position of its last query, unless q_offset says otherwise. Queries may be packed, as many sequences as
/// the cache has, with cu_seqlens_q alone.
///
/// Scratch as softmax_forward, with copies of a block of keys and values if the cache holds other numbers than q's
/// accumulator (softmax_forward_scratch_bytes of the cache).
/// Throws besides: a cache of another batch, head sizes or number of kv heads that does not divide H; a bias.
template <key_value_cache C, writable<4> Out, class... Mods>
void softmax_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q, const C& cache, Out&& out,
                     const std::type_identity_t<softmax_options<element_of_t<Out>>>& options = {},
                     const Mods&... mods) {
  detail::softmax_forward_on<default_arch>(q, cache, view_traits<std::remove_reference_t<Out>>::make(out), options,
                                           mods...);
}

HEED_ARCH_END
