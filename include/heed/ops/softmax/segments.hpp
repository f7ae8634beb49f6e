/// Exact softmax attention over several sets of keys: prefixes, meta tokens, cascades, extended attention.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/softmax_options.hpp>
#include <heed/core/softmax_segment.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_run.hpp>

HEED_ARCH_BEGIN

/// Keys and values of one segment, and the mask that only it has. Views, so copies are cheap.
///
///     heed::softmax_segment<float> prefix{kp, vp};                                        // all visible
///     heed::softmax_segment<float, heed::causal> own{k, v, {.log_weight = w}, heed::causal{}};
template <class T, class Mask = detail::sees_all>
struct softmax_segment {
  view<const T, 4> k;  ///< [B,G,M_s,D], or [1,G,M_s,D] for all batch entries alike
  view<const T, 4> v;  ///< [B,G,M_s,E], or [1,G,M_s,E]
  softmax_segment_options<T> options{};
  Mask mask{};
};

namespace detail {

template <class S, class Mask>
HEED_COLD void check_segment(const checker& check, int number, const softmax_segment<S, Mask>& segment,
                             const view<const S, 4>& q, const std::type_identity_t<view<const S, 4>>& out,
                             const sequence_offsets& cu_q) {
  const text k_name("segments[%d].k", number), v_name("segments[%d].v", number);
  const softmax_segment_options<S>& options = segment.options;
  check_keys(check, q, segment.k, segment.v, out, k_name.c_str(), v_name.c_str(), !cu_q);
  check_positions(check, q.extent(2), segment.k.extent(2), options.q_offset, options.kv_offset);
  check_window(check, options.window_left, options.window_right);
  check_packed(check, q, segment.k, cu_q, options.cu_seqlens_k, false);
  if (options.log_weight) {
    const text name("segments[%d].options.log_weight", number);
    check.extent(options.log_weight, name.c_str(), 0, q.extent(1), "H, as q");
    for (index_t h = 0; h < q.extent(1); ++h)
      check.require(options.log_weight[h] < HUGE_VAL, name.c_str(), "numbers below +inf",
                    double(options.log_weight[h]));
  }
  check.require(std::isfinite(options.blend.or_default(0)), "blend", "a finite number", options.blend.or_default(0));
}

/// An output must not overlap the keys and values of a segment.
template <class Output, class S, class Mask>
HEED_COLD void check_apart(const checker& check, const Output& output, const char* name, int number,
                           const softmax_segment<S, Mask>& segment) {
  if (!output) return;
  check.no_overlap(output, name, segment.k, text("segments[%d].k", number).c_str());
  check.no_overlap(output, name, segment.v, text("segments[%d].v", number).c_str());
}

/// What the options of a call must not say, as segments say it.
template <class Options>
HEED_COLD void check_segment_options(const checker& check, const Options& options) {
  check.require(!options.bias, "options.bias", "none (use a score mod)", "a bias");
  check.require(options.window_left == -1 && options.window_right == -1, "options.window_left, window_right",
                "none (windows belong to the segments)", "a window");
  check.require(!options.q_offset.given() && options.kv_offset == 0, "options.q_offset, kv_offset",
                "none (offsets belong to the segments)", "an offset");
  check.require(!options.cu_seqlens_k, "options.cu_seqlens_k", "none (it belongs to the segments)", "offsets");
}

/// A checked segment as the engine takes it; a batch extent of 1 is read by all batch entries.
template <class S, class Mask>
softmax_segment_rows<S, Mask> rows_of(const softmax_segment<S, Mask>& segment, index_t batch) noexcept {
  const softmax_segment_options<S>& options = segment.options;
  const bool shared = segment.k.extent(0) == 1 && batch != 1;
  return {shared ? segment.k.broadcast(0, batch) : segment.k,
          shared ? segment.v.broadcast(0, batch) : segment.v,
          options.cu_seqlens_k,
          {options.window_left, options.window_right, segment.mask},
          options.q_offset,
          options.kv_offset,
          options.log_weight,
          options.blend.or_default(1)};
}

/// A tuple of segments of different types, or a range of segments of one type.
template <class Segments, class F>
void for_each_segment(const Segments& segments, const F& f) {
  if constexpr (requires { std::tuple_size<Segments>::value; } && !requires { segments.data(); })
    std::apply([&](const auto&... segment) { (f(segment), ...); }, segments);
  else
    for (const auto& segment : segments) f(segment);
}

}  // namespace detail

/// Softmax attention over the union of K segments of keys, or a blend of K softmaxes:
///     out_i = sum_s sum_j softmax_{s,j}(z_s[i,j] + a_s) v_s[j]                  (log_weight a_s, default 0)
///     out_i = sum_s c_s sum_j softmax_j(z_s[i,j]) v_s[j]                        (blend c_s, if given)
///
/// q         [B,H,N,D]  queries
/// segments             a std::tuple of softmax_segment (their masks may differ), or a range of one type of them
/// out       [B,H,N,E]  output; must not overlap an input
/// options              softmax_options: scale, softcap, sink, lse, cu_seqlens_q, scratch and executor; what concerns
/// keys
///                      (window, offsets, cu_seqlens_k) belongs to the segments, and there is no bias
/// mods                 score mods, applied in every segment
///
/// Positions are per segment: query i stands at i + q_offset (default M_s - N), key j at j + kv_offset.
/// Legal edges: no segments, empty segments, rows that see nothing (out = 0, lse = -inf).
/// Cost: that of one softmax_forward over all keys. Scratch as softmax_forward, plus E rows a worker for a blend.
/// Deterministic: bit-equal for any executor and number of threads; segments are visited in their order.
/// Throws heed::invalid_argument as softmax_forward; a blend in some segments only; lse or a sink beside a blend.
/// Paper: Petrov et al., When Do Prompting and Prefix-Tuning Work?, 2023; Dong et al., Hymba, 2024 (meta tokens).
template <class Segments, writable<4> Out, class... Mods>
void softmax_segments_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q, const Segments& segments,
                              Out&& out, const std::type_identity_t<softmax_options<element_of_t<Out>>>& options = {},
                              const Mods&... mods) {
  using S = element_of_t<Out>;
  static_assert(element<S>,
                "heed::softmax_segments_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(
      (... && detail::is_score_mod<Mods, accumulator_t<S>>),
      "heed::softmax_segments_forward: mods must be callable as score_mod(score, position) -> score; masks belong to "
      "the segments");
  if constexpr (element<S> && (... && detail::is_score_mod<Mods, accumulator_t<S>>)) {
    const view<S, 4> result = view_traits<std::remove_reference_t<Out>>::make(out);
    const detail::checker check("softmax_segments_forward");
    detail::check_queries(check, q, result, options.lse, options.sink, options.scale, options.softcap);
    detail::check_segment_options(check, options);
    detail::check_aliasing(check, result, "out", q);
    detail::check_aliasing(check, options.lse, "options.lse", q, result);
    int count = 0, blended = 0;
    detail::for_each_segment(segments, [&](const auto& segment) {
      detail::check_segment(check, count, segment, q, result, options.cu_seqlens_q);
      detail::check_apart(check, result, "out", count, segment);
      detail::check_apart(check, options.lse, "options.lse", count++, segment);
      blended += segment.options.blend.given() ? 1 : 0;
    });
    check.require(blended == 0 || blended == count, "segments", "a blend in every segment or in none", blended);
    check.require(blended == 0 || !options.lse, "options.lse", "none beside a blend", "an lse");
    check.require(blended == 0 || !options.sink, "options.sink", "none beside a blend", "a sink");

    const detail::softmax_rows<S> rows{q,
                                       result,
                                       options.lse,
                                       options.sink,
                                       {},
                                       options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                       options.cu_seqlens_q};
    detail::run_softmax<default_arch>(
        check, rows,
        [&](const auto& f) {
          detail::for_each_segment(segments, [&](const auto& segment) { f(detail::rows_of(segment, q.extent(0))); });
        },
        blended > 0, detail::find_score_mods(options.softcap, mods...), options.scratch,
        detail::resolve(options.executor));
  }
}

HEED_ARCH_END
