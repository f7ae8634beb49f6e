/// Attention of a decoder to an encoder around a position that it predicts (Luong's local-p).
#pragma once

#include <heed/kernel/luong_call.hpp>

HEED_ARCH_BEGIN
namespace detail {

HEED_COLD inline double checked_sigma(const checker& check, index_t reach, const setting<double>& sigma) {
  check.require(reach >= 1, "options.reach (D)", "at least 1", reach);
  const double chosen = sigma.or_default(double(reach) / 2);
  check.require(std::isfinite(chosen) && chosen > 0, "options.sigma", "a finite number above 0", chosen);
  return chosen;
}

template <class T>
gaussian_factor<T> gaussian_of(const view<const T, 2>& positions, double sigma, const view<T, 2>& gradients) noexcept {
  return {positions, static_cast<T>(1 / (sigma * sigma)), gradients};
}

template <class T>
predicted_window<T> window_around(const view<const T, 2>& positions, const sequence_lengths& lengths, index_t states,
                                  index_t reach) noexcept {
  return {positions, {lengths, states}, std::min(reach, index_t(1) << 24)};
}

/// luong_local_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void luong_local_forward_on(view<const S, 3> h_t, view<const S, 3> h_s, view<const accumulator_t<S>, 2> positions,
                            view<S, 3> out, const luong_local_options<S>& options) {
  const checker check("luong_local_forward");
  const named_states<S> q{h_t, "h_t"}, k{h_s, "h_s"};
  check_luong(check, q, k, k, options.lengths);
  check_step_numbers(check, positions, "positions", q);
  check.output(out, "out");
  check_contexts(check, out, "out", q, k);
  if (options.lse) check_step_numbers(check, options.lse, "options.lse", q);
  const double sigma = checked_sigma(check, options.reach, options.sigma);
  check_aliasing(check, out, "out", h_t, h_s, positions);
  check_aliasing(check, options.lse, "options.lse", h_t, h_s, positions, out);
  run_luong<A>(check, h_t, h_s, h_s, out, options.lse, 0,
               window_around(positions, options.lengths, h_s.extent(1), options.reach), options.scratch,
               options.executor, gaussian_of<accumulator_t<S>>(positions, sigma, {}));
}

/// luong_local_backward for an instruction set of the caller's choice.
template <class A, class S>
void luong_local_backward_on(view<const S, 3> h_t, view<const S, 3> h_s, view<const accumulator_t<S>, 2> positions,
                             view<const S, 3> out, view<const accumulator_t<S>, 2> lse, view<const S, 3> dout,
                             view<S, 3> dh_t, view<S, 3> dh_s, view<accumulator_t<S>, 2> dpositions,
                             const luong_local_backward_options& options) {
  using T = accumulator_t<S>;
  const checker check("luong_local_backward");
  const named_states<S> q{h_t, "h_t"}, k{h_s, "h_s"};
  check_luong(check, q, k, k, options.lengths);
  check_step_numbers(check, positions, "positions", q);
  check_contexts(check, out, "out", q, k);
  check_contexts(check, dout, "dout", q, k);
  check_step_numbers(check, lse, "lse", q);
  check_output_like(check, dh_t, "dh_t", h_t, "h_t");
  check_output_like(check, dh_s, "dh_s", h_s, "h_s");
  check_step_numbers(check, dpositions, "dpositions", q);
  const double sigma = checked_sigma(check, options.reach, options.sigma);
  const auto apart = [&](const auto& output, const char* name, const auto&... outputs) {
    check_aliasing(check, output, name, h_t, h_s, positions, out, lse, dout, outputs...);
  };
  apart(dh_t, "dh_t");
  apart(dh_s, "dh_s", dh_t);
  apart(dpositions, "dpositions", dh_t, dh_s);
  const luong_gradients<S> call{h_t, h_s, h_s, out, lse, dout, dh_t, dh_s, dh_s};
  const index_t bytes =
      luong_backward_bytes<A>(h_t, h_s, h_s, options.executor, gaussian_of<T>(positions, sigma, dpositions));
  const scratch_block memory(check, options.scratch, bytes);
  for (index_t b = 0; b < dpositions.extent(0); ++b)
    for (index_t i = 0; i < dpositions.extent(1); ++i) dpositions(b, i) = T(0);
  run_luong_backward<A>(check, call, 0, window_around(positions, options.lengths, h_s.extent(1), options.reach),
                        {memory.data(), bytes}, options.executor, gaussian_of<T>(positions, sigma, dpositions));
}

}  // namespace detail

/// Scratch, in bytes, that luong_local_forward needs for states of `features` numbers: what `options.scratch` must
/// hold.
template <element T, class A = default_arch>
index_t luong_local_forward_scratch_bytes(index_t features, const executor_ref& executor = {}) {
  return detail::luong_bytes<T, A>(features, features, executor);
}

/// Scratch, in bytes, that luong_local_backward needs for tensors of these extents. Data is not looked at.
template <element T, class A = default_arch>
index_t luong_local_backward_scratch_bytes(const std::type_identity_t<view<const T, 3>>& h_t,
                                           const std::type_identity_t<view<const T, 3>>& h_s,
                                           const executor_ref& executor = {}) {
  return detail::luong_backward_bytes<A, T>(h_t, h_s, h_s, executor, detail::gaussian_factor<accumulator_t<T>>{});
}

/// Luong's local-p: out[b,t,:] = sum_s a_ts g_ts h_s[b,s,:]
///     a_t = softmax over visible s of <h_t, h_s>, visible: abs(s - floor(p_t)) <= D and s < S_b
///     g_ts = e^(-(s - p_t)^2 / (2 sigma^2)),  D = options.reach, sigma D / 2 unless options.sigma says otherwise
///
/// The weights a g are not normalised again: they add up to at most 1. Score general: pass
/// luong_projection_forward(h_t, W_a) for h_t.
///
/// h_t        [B,N,D]  target steps
/// h_s        [B,S,D]  source states
/// positions  [B,N]    p_t, of any strides, in the accumulator's type (float; double for double): what
///                     luong_positions_forward predicts, or anything else. The window stands at the first or last state
///                     where they lie outside.
/// out        [B,N,D]  output, the paper's c_t; must not overlap an input. Its element type, float, double, bfloat16 or
///                     float16, is that of h_t and h_s. Any outer strides; the last axis contiguous.
/// options             see luong_local_options
///
/// Legal edges: as luong_dot_forward; a position that is NaN makes its row NaN.
/// Cost: O(N (2 D + 1)) products where positions of neighbouring steps are near each other, as those of a translation
/// are: a tile of steps visits the blocks of 128 states between the first and the last that it sees. Scratch O(D) a
/// worker (luong_local_forward_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_forward with scale 1; g to 4 u + u (s - p)^2 / sigma^2.
/// Throws heed::invalid_argument before any write: all that luong_dot_forward throws for, reach below 1, sigma not
/// above 0.
/// Paper: Luong, Pham, Manning, Effective Approaches to Attention-based Neural Machine Translation, 2015, eq. 9 and 10.
template <writable<3> Out>
void luong_local_forward(std::type_identity_t<view<const element_of_t<Out>, 3>> h_t,
                         std::type_identity_t<view<const element_of_t<Out>, 3>> h_s,
                         std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 2>> positions, Out&& out,
                         const std::type_identity_t<luong_local_options<element_of_t<Out>>>& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>,
                "heed::luong_local_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_local_forward_on<default_arch, S>(h_t, h_s, positions,
                                                    view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// Gradients of luong_local_forward by h_t, h_s (as keys and as values) and the positions. With x_ts = <dout_t, h_s>:
///     dz_ts = a_ts (g_ts x_ts - <dout_t, out_t>)       dp_t = sum_s a_ts g_ts x_ts (s - p_t) / sigma^2
/// The window, a floor, has no gradient.
///
/// h_t, h_s, positions   what luong_local_forward was given
/// out         [B,N,D]   what it returned
/// lse         [B,N]     and in options.lse: of a, without g
/// dout        [B,N,D]   gradient by out
/// dh_t        [B,N,D]   outputs, overwritten; none may overlap an input or another output
/// dh_s        [B,S,D]
/// dpositions  [B,N]     of any strides, in the accumulator's type: for luong_positions_backward
/// options               see luong_local_backward_options
///
/// Legal edges: as luong_local_forward; states that no step sees have gradient 0.
/// Cost: 5 / 2 of luong_local_forward. Scratch as softmax_backward (luong_local_backward_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_backward.
/// Throws heed::invalid_argument before any write: all that luong_local_forward throws for, lse missing, extents of
/// out, lse, dout and the gradients that do not fit.
template <writable<3> DT, writable<3> DS>
void luong_local_backward(std::type_identity_t<view<const element_of_t<DT>, 3>> h_t,
                          std::type_identity_t<view<const element_of_t<DT>, 3>> h_s,
                          std::type_identity_t<view<const accumulator_t<element_of_t<DT>>, 2>> positions,
                          std::type_identity_t<view<const element_of_t<DT>, 3>> out,
                          std::type_identity_t<view<const accumulator_t<element_of_t<DT>>, 2>> lse,
                          std::type_identity_t<view<const element_of_t<DT>, 3>> dout, DT&& dh_t, DS&& dh_s,
                          std::type_identity_t<view<accumulator_t<element_of_t<DT>>, 2>> dpositions,
                          const luong_local_backward_options& options = {}) {
  using S = element_of_t<DT>;
  static_assert(element<S>,
                "heed::luong_local_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_local_backward_on<default_arch, S>(
        h_t, h_s, positions, out, lse, dout, view_traits<std::remove_reference_t<DT>>::make(dh_t),
        view_traits<std::remove_reference_t<DS>>::make(dh_s), dpositions, options);
}

HEED_ARCH_END
