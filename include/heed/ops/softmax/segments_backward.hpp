/// Gradients of exact softmax attention over several sets of keys.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/softmax_backward_options.hpp>
#include <heed/kernel/softmax_backward_run.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_segments.hpp>

HEED_ARCH_BEGIN

/// Where the gradients of one segment go: tensors of the extents of its keys and values. A segment whose batch extent
/// is 1 gets the sum over all batch entries.
template <class T>
struct softmax_segment_gradients {
  view<T, 4> dk;
  view<T, 4> dv;
  /// [H]: gradient by log_weight, in which the segment's default counts as zeros. Default: not wanted.
  view<accumulator_t<T>, 1> dlog_weight{};
};

namespace detail {

/// Calls f(segment, its gradients, number) for segments and their gradients, in order.
template <class Segments, class Gradients, class F>
void for_each_segment(const Segments& segments, const Gradients& gradients, const F& f) {
  int number = 0;
  for_each_segment(segments, [&](const auto& segment) {
    f(segment, gradients.data()[number], number);
    ++number;
  });
}

template <class S, class Segments, class Gradients>
auto gradient_segments(const Segments& segments, const Gradients& gradients, index_t batch) noexcept {
  return [&segments, &gradients, batch](const auto& f) {
    for_each_segment(segments, gradients, [&](const auto& segment, const auto& gradient, int) {
      using mask_type = std::remove_cvref_t<decltype(segment.mask)>;
      f(softmax_gradient_segment<S, mask_type>{rows_of(segment, batch), gradient.dk, gradient.dv,
                                               gradient.dlog_weight});
    });
  };
}

}  // namespace detail

/// Scratch, in bytes, that softmax_segments_backward needs: what `options.scratch` must hold. Of tensors, only extents
/// and cu_seqlens are looked at.
template <element T, class Segments, class Gradients, class... Mods>
index_t softmax_segments_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                                const Segments& segments,
                                                const std::type_identity_t<view<const T, 4>>& out,
                                                const Gradients& gradients,
                                                const std::type_identity_t<softmax_backward_options<T>>& options = {},
                                                const Mods&... mods) {
  const detail::softmax_gradient_rows<T> rows{q, out, {}, {}, {}, {}, {}, {}, {}, {}, 1, options.cu_seqlens_q};
  return detail::softmax_backward_bytes<default_arch>(
      rows, detail::gradient_segments<T>(segments, gradients, q.extent(0)),
      detail::find_score_mods(options.softcap, mods...), detail::resolve(options.executor));
}

/// Gradients of a loss by q and by the keys and values of every segment, given those by out (and by lse).
///
/// With P_s,ij = exp(z_s,ij + a_s - lse_i), of visible pairs, and z_s and a_s as in softmax_segments_forward:
///     dz_s,ij = P_s,ij (dout_i . v_s,j - dout_i . out_i + dlse_i)
/// dq_i, which sums over all segments, dk_s and dv_s are those of softmax_backward, and da_s = sum_ij dz_s,ij.
///
/// q         [B,H,N,D]  queries
/// segments             as given to softmax_segments_forward; none may have a blend: such a segment has a softmax of
///                      its own, whose gradients softmax_backward gives for its own out and lse and blend times dout
/// out       [B,H,N,E]  what softmax_segments_forward returned
/// lse       [B,H,N]    what it returned in options.lse
/// dout      [B,H,N,E]  gradient by out
/// dq        [B,H,N,D]  gradient by q, an output
/// gradients            a contiguous range of softmax_segment_gradients, one for each segment: outputs, dk [B,G,M_s,D]
///                      and dv [B,G,M_s,E], B = 1 where the segment's is, and dlog_weight [H] if wanted
/// options              softmax_backward_options; what concerns keys belongs to the segments, and there is no bias
/// mods                 score mods of the forward call, callable with heed::dual numbers
///
/// Legal edges: no segments, empty segments; rows that see nothing have gradient 0.
/// Cost: that of softmax_backward over all keys; each dlog_weight takes 4 / 5 of a softmax_forward over its keys.
/// Scratch as softmax_backward, and for a segment that all batch entries share a partial sum for each.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_backward.
/// Throws heed::invalid_argument before any write, as softmax_backward and softmax_segments_forward; another number of
/// gradients than of segments; a blend.
/// Paper: as softmax_backward; Petrov et al., When Do Prompting and Prefix-Tuning Work?, 2023 (learned prefixes).
template <class Segments, writable<4> DQ, class Gradients, class... Mods>
void softmax_segments_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q, const Segments& segments,
                               std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                               std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> lse,
                               std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq,
                               const Gradients& gradients,
                               const std::type_identity_t<softmax_backward_options<element_of_t<DQ>>>& options = {},
                               const Mods&... mods) {
  using S = element_of_t<DQ>;
  static_assert(element<S>,
                "heed::softmax_segments_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(
      (... && detail::is_differentiable_mod<Mods, accumulator_t<S>>),
      "heed::softmax_segments_backward: mods must be callable as score_mod(score, position) -> score with scores that "
      "are heed::dual numbers; masks belong to the segments");
  if constexpr (element<S> && (... && detail::is_differentiable_mod<Mods, accumulator_t<S>>)) {
    const view<S, 4> to = view_traits<std::remove_reference_t<DQ>>::make(dq);
    const detail::checker check("softmax_segments_backward");
    detail::check_backward_queries(check, q, out, lse, dout, to, options.dlse, options.sink, options.scale,
                                   options.softcap);
    detail::check_segment_options(check, options);
    check.require(!options.dbias, "options.dbias", "none without a bias", "an output");
    detail::check_sink_gradient(check, q, options.sink, options.dsink);
    int count = 0;
    detail::for_each_segment(segments, [&](const auto& segment) {
      detail::check_segment(check, count, segment, q, out, options.cu_seqlens_q);
      check.require(!segment.options.blend.given(), detail::text("segments[%d].options.blend", count).c_str(),
                    "none (call softmax_backward for each segment)", "a blend");
      ++count;
    });
    check.require(index_t(gradients.size()) == count, "gradients", "one for each segment", index_t(gradients.size()));
    const auto inputs_apart = [&](const auto& output, const char* name) {
      detail::check_aliasing(check, output, name, q, out, lse, dout, options.sink, options.dlse);
      int number = 0;
      detail::for_each_segment(
          segments, [&](const auto& segment) { detail::check_apart(check, output, name, number++, segment); });
    };
    inputs_apart(to, "dq");
    inputs_apart(options.dsink, "options.dsink");
    detail::check_aliasing(check, options.dsink, "options.dsink", to);
    detail::for_each_segment(segments, gradients, [&](const auto& segment, const auto& gradient, int number) {
      const detail::text dk("gradients[%d].dk", number), dv("gradients[%d].dv", number);
      detail::check_key_gradients(check, segment.k, segment.v, gradient.dk, gradient.dv, dk.c_str(), dv.c_str());
      inputs_apart(gradient.dk, dk.c_str());
      inputs_apart(gradient.dv, dv.c_str());
      detail::check_aliasing(check, gradient.dk, dk.c_str(), to, options.dsink);
      detail::check_aliasing(check, gradient.dv, dv.c_str(), to, options.dsink, gradient.dk);
      const detail::text dlog_weight("gradients[%d].dlog_weight", number);
      detail::check_head_gradient(check, q, gradient.dlog_weight, dlog_weight.c_str());
      inputs_apart(gradient.dlog_weight, dlog_weight.c_str());
      detail::check_aliasing(check, gradient.dlog_weight, dlog_weight.c_str(), to, options.dsink, gradient.dk,
                             gradient.dv);
      for (int before = 0; before < number; ++before) {
        const auto& other = gradients.data()[before];
        detail::check_aliasing(check, gradient.dk, dk.c_str(), other.dk, other.dv, other.dlog_weight);
        detail::check_aliasing(check, gradient.dv, dv.c_str(), other.dk, other.dv, other.dlog_weight);
        detail::check_aliasing(check, gradient.dlog_weight, dlog_weight.c_str(), other.dk, other.dv, other.dlog_weight);
      }
    });

    const detail::softmax_gradient_rows<S> rows{q,
                                                out,
                                                lse,
                                                dout,
                                                options.dlse,
                                                options.sink,
                                                {},
                                                to,
                                                options.dsink,
                                                {},
                                                options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                                options.cu_seqlens_q};
    detail::run_softmax_backward<default_arch>(
        check, rows, detail::gradient_segments<S>(segments, gradients, q.extent(0)),
        detail::find_score_mods(options.softcap, mods...), options.scratch, detail::resolve(options.executor));
  }
}

HEED_ARCH_END
