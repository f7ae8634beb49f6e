/// Exact softmax attention over several sets of keys: prefixes, meta tokens, cascades, extended attention.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/softmax_options.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_run.hpp>
#include <heed/kernel/softmax_segments.hpp>

HEED_ARCH_BEGIN

/// Softmax attention over the union of K segments of keys, or a blend of K softmaxes:
///     out_i = sum_s sum_j softmax_{s,j}(z_s[i,j] + a_s) v_s[j]                  (log_weight a_s, default 0)
///     out_i = sum_s c_s sum_j softmax_j(z_s[i,j]) v_s[j]                        (blend c_s, if given)
///
/// q         [B,H,N,D]  queries
/// segments             a std::tuple of softmax_segment (their masks may differ), or a range of one type of them
/// out       [B,H,N,E]  output; must not overlap an input
/// options              softmax_options: scale, softcap, sink, lse, cu_seqlens_q, scratch and executor; what concerns
///                      keys (window, offsets, cu_seqlens_k) belongs to the segments, and there is no bias
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
