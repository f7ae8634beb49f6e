/// Segments of keys as a caller gives them, and as the engine takes them.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/overlap.hpp>
#include <heed/core/softmax_segment.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_rows.hpp>

#include <cmath>
#include <tuple>

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
softmax_segment_rows<accumulator_t<S>, dense_keys<S>, Mask> rows_of(const softmax_segment<S, Mask>& segment,
                                                                    index_t batch) noexcept {
  const softmax_segment_options<S>& options = segment.options;
  const bool shared = segment.k.extent(0) == 1 && batch != 1;
  return {{shared ? segment.k.broadcast(0, batch) : segment.k, shared ? segment.v.broadcast(0, batch) : segment.v,
           options.cu_seqlens_k},
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

HEED_ARCH_END
