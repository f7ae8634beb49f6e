/// Exact softmax attention step by step: one to a few new queries of each sequence against all of its keys.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/softmax_step_options.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_step_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a step asks of its queries, checked elsewhere.
template <class S>
softmax_rows<S> step_queries(const view<const S, 4>& q, const view<S, 4>& out, const view<const S, 4>& bias,
                             const softmax_step_options<S>& options) noexcept {
  return {q, out, options.lse, options.sink, bias, options.scale.or_default(1 / std::sqrt(double(q.extent(3)))), {}};
}

/// A set of keys of a step, under its window and mask.
template <class S, class Keys, class Mask>
softmax_segment_rows<accumulator_t<S>, Keys, Mask> step_segment(const Keys& keys,
                                                                const softmax_step_options<S>& options,
                                                                const Mask& mask) noexcept {
  return {keys, {options.window_left, options.window_right, mask}, options.q_offset, options.kv_offset, {}, 1};
}

/// The pieces of a cache as segments.
template <class S, class C, class Mask>
auto step_segments(const C& cache, const softmax_step_options<S>& options, const Mask& mask) noexcept {
  return [&cache, &options, &mask](const auto& f) {
    for (int piece = 0; piece < C::pieces; ++piece) f(step_segment(cached_keys<C>{cache, piece}, options, mask));
  };
}

template <class S>
HEED_COLD void check_step_options(const checker& check, const view<const S, 4>& q, const view<S, 4>& out,
                                  const softmax_step_options<S>& options) {
  check_queries(check, q, out, options.lse, options.sink, options.scale, options.softcap);
  check_window(check, options.window_left, options.window_right);
  check.require(options.split >= 1, "options.split", "at least 1", options.split);
  check_aliasing(check, out, "out", q);
  check_aliasing(check, options.lse, "options.lse", q, out);
}

/// softmax_step over tensors, for an instruction set of the caller's choice.
template <class A, class S, class... Mods>
void softmax_step_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                     const softmax_step_options<S>& options, const Mods&... mods) {
  static_assert(element<S>, "heed::softmax_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(!element<S> || are_mods<S, Mods...>,
                "heed::softmax_step: mods are at most one mask(position) -> bool, and score_mod(score, position) -> "
                "score");
  if constexpr (element<S> && are_mods<S, Mods...>) {
    const checker check("softmax_step");
    check_step_options(check, q, out, options);
    check_keys(check, q, k, v, out, "k", "v");
    check_lengths(check, options.kv_lengths, "options.kv_lengths", q.extent(0), k.extent(2));
    check_positions(check, q.extent(2), k.extent(2), options.q_offset, options.kv_offset);
    const view<const S, 4> bias =
        broadcast_bias(check, options.bias, q.extent(0), q.extent(1), q.extent(2), k.extent(2));
    check_aliasing(check, out, "out", k, v, options.bias);
    check_aliasing(check, options.lse, "options.lse", k, v, options.bias);

    const auto segment = step_segment(dense_keys<S>{k, v, {}, options.kv_lengths}, options, find_mask(mods...));
    run_softmax_step<A>(
        check, step_queries(q, out, bias, options), k.extent(1), [&](const auto& f) { f(segment); },
        step_split{options.split}, find_score_mods(options.softcap, mods...), options.scratch,
        resolve(options.executor));
  }
}

/// softmax_step over a cache, for an instruction set of the caller's choice.
template <class A, class S, class C, class... Mods>
void softmax_step_on(view<const S, 4> q, const C& cache, view<S, 4> out, const softmax_step_options<S>& options,
                     const Mods&... mods) {
  static_assert(element<S>, "heed::softmax_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(!element<S> || are_mods<S, Mods...>,
                "heed::softmax_step: mods are at most one mask(position) -> bool, and score_mod(score, position) -> "
                "score");
  if constexpr (element<S> && are_mods<S, Mods...>) {
    const checker check("softmax_step");
    check_step_options(check, q, out, options);
    check_cache(check, q, cache, out, options.q_offset, options.kv_offset);
    check.require(!options.bias, "options.bias", "none beside a cache (use a score mod)", "a bias");
    check.require(!options.kv_lengths, "options.kv_lengths", "none beside a cache, which has its own", "lengths");

    run_softmax_step<A>(check, step_queries(q, out, {}, options), cache.kv_heads(),
                        step_segments(cache, options, find_mask(mods...)), step_split{options.split},
                        find_score_mods(options.softcap, mods...), options.scratch, resolve(options.executor));
  }
}

}  // namespace detail

/// Scratch, in bytes, that softmax_step needs: what `options.scratch` must hold. Of tensors, only extents and
/// kv_lengths are looked at.
template <element T, class A = default_arch>
index_t softmax_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                   const std::type_identity_t<view<const T, 4>>& k,
                                   const std::type_identity_t<view<const T, 4>>& v,
                                   const std::type_identity_t<softmax_step_options<T>>& options = {}) {
  const view<T, 4> out(nullptr, {q.extent(0), q.extent(1), q.extent(2), v.extent(3)});
  const auto segment =
      detail::step_segment(detail::dense_keys<T>{k, v, {}, options.kv_lengths}, options, detail::no_mask);
  return detail::softmax_step_bytes<A>(
      detail::step_queries<T>(q, out, options.bias, options), k.extent(1), [&](const auto& f) { f(segment); },
      detail::step_split{options.split}, detail::resolve(options.executor));
}

/// The same beside a cache as it is now; it grows with the longest sequence, up to 64 parts of `split` keys.
template <element T, class A = default_arch, key_value_cache C>
index_t softmax_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q, const C& cache,
                                   const std::type_identity_t<softmax_step_options<T>>& options = {}) {
  const view<T, 4> out(nullptr, {q.extent(0), q.extent(1), q.extent(2), cache.value_features()});
  return detail::softmax_step_bytes<A>(detail::step_queries<T>(q, out, {}, options), cache.kv_heads(),
                                       detail::step_segments(cache, options, detail::no_mask),
                                       detail::step_split{options.split}, detail::resolve(options.executor));
}

/// Softmax attention of the newest tokens, as softmax_forward computes it:
///     out[b,h,i,:] = sum_j softmax_j(z[b,h,i,j]) v[b,g(h),j,:]   over the visible keys j < kv_lengths[b]
///
/// q    [B,H,N,D]  queries, N of each sequence: one, or the few of a speculation; any N is right, softmax_forward is
///                 faster from about 16 on
/// k    [B,G,M,D]  keys; H a multiple of G
/// v    [B,G,M,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type is that of all four tensors
/// options         see softmax_step_options
/// mods            as in softmax_forward. N > 1 tokens that must not see each other's future need `heed::causal{}`.
///
/// Position of query i: i + q_offset (default kv_lengths[b] - N), of key j: j + kv_offset.
///
/// Legal edges: N = 0, M = 0, sequences without keys, rows that see nothing (out = 0, lse = -inf; with a sink
/// lse = sink). Rows of k and v at or past a length, and excluded keys, never reach the result, whatever they hold.
/// Cost: reads the keys and values that the mask leaves once for all heads that share them, unless H / G * N exceeds
/// 32. Tasks of `split` keys leave a state of E + 2 numbers a row, which a second pass adds up. Scratch: O(D + E) a
/// worker and those states, at most 64 a row (softmax_step_scratch_bytes); allocates nothing once the thread keeps
/// enough, or with options.scratch.
/// Deterministic: bit-equal for any executor and number of threads, and whatever other sequences the batch holds.
/// Accuracy: as softmax_forward.
/// Throws heed::invalid_argument before any write: as softmax_forward; a length below 0 or above M; split < 1.
/// Paper: Shazeer, Fast Transformer Decoding: One Write-Head is All You Need, 2019; Rabe and Staats, Self-attention
/// Does Not Need O(n^2) Memory, 2021, section 2.
template <writable<4> Out, class... Mods>
void softmax_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                  const std::type_identity_t<softmax_step_options<element_of_t<Out>>>& options = {},
                  const Mods&... mods) {
  detail::softmax_step_on<default_arch>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options,
                                        mods...);
}

/// The same over a cache, whose rows may be of any format. Positions of keys are those of the cache plus kv_offset, and
/// the newest key of a sequence is at the position of its last query, unless q_offset says otherwise.
///
/// Throws besides: a cache of another batch, head sizes or number of kv heads that does not divide H; a bias.
template <key_value_cache C, writable<4> Out, class... Mods>
void softmax_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q, const C& cache, Out&& out,
                  const std::type_identity_t<softmax_step_options<element_of_t<Out>>>& options = {},
                  const Mods&... mods) {
  detail::softmax_step_on<default_arch>(q, cache, view_traits<std::remove_reference_t<Out>>::make(out), options,
                                        mods...);
}

HEED_ARCH_END
