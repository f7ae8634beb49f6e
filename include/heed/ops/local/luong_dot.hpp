/// Attention of a decoder to an encoder with scores dot and general: global, and local around the own step (local-m).
#pragma once

#include <heed/kernel/luong_call.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// luong_dot_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void luong_dot_forward_on(view<const S, 3> h_t, view<const S, 3> h_s, view<S, 3> out, const luong_options<S>& options) {
  const checker check("luong_dot_forward");
  const named_states<S> q{h_t, "h_t"}, k{h_s, "h_s"};
  check_luong(check, q, k, k, options.lengths);
  check.output(out, "out");
  check_contexts(check, out, "out", q, k);
  if (options.lse) check_step_numbers(check, options.lse, "options.lse", q);
  check_steps(check, options.reach, options.first_step);
  check_aliasing(check, out, "out", h_t, h_s);
  check_aliasing(check, options.lse, "options.lse", h_t, h_s, out);
  run_luong<A>(check, h_t, h_s, h_s, out, options.lse, options.first_step,
               window_of(options.lengths, h_s.extent(1), options.reach), options.scratch, options.executor);
}

/// luong_dot_backward for an instruction set of the caller's choice.
template <class A, class S>
void luong_dot_backward_on(view<const S, 3> h_t, view<const S, 3> h_s, view<const S, 3> out,
                           view<const accumulator_t<S>, 2> lse, view<const S, 3> dout, view<S, 3> dh_t, view<S, 3> dh_s,
                           const luong_backward_options& options) {
  const checker check("luong_dot_backward");
  const named_states<S> q{h_t, "h_t"}, k{h_s, "h_s"};
  check_luong(check, q, k, k, options.lengths);
  check_contexts(check, out, "out", q, k);
  check_contexts(check, dout, "dout", q, k);
  check_step_numbers(check, lse, "lse", q);
  check_output_like(check, dh_t, "dh_t", h_t, "h_t");
  check_output_like(check, dh_s, "dh_s", h_s, "h_s");
  check_steps(check, options.reach, options.first_step);
  check_aliasing(check, dh_t, "dh_t", h_t, h_s, out, lse, dout);
  check_aliasing(check, dh_s, "dh_s", h_t, h_s, out, lse, dout, dh_t);
  const luong_gradients<S> call{h_t, h_s, h_s, out, lse, dout, dh_t, dh_s, dh_s};
  run_luong_backward<A>(check, call, options.first_step, window_of(options.lengths, h_s.extent(1), options.reach),
                        options.scratch, options.executor);
}

}  // namespace detail

/// Scratch, in bytes, that luong_dot_forward needs for states of `features` numbers: what `options.scratch` must hold.
template <element T, class A = default_arch>
index_t luong_dot_forward_scratch_bytes(index_t features, const executor_ref& executor = {}) {
  return detail::luong_bytes<T, A>(features, features, executor);
}

/// Scratch, in bytes, that luong_dot_backward needs for tensors of these extents. Data is not looked at.
template <element T, class A = default_arch>
index_t luong_dot_backward_scratch_bytes(const std::type_identity_t<view<const T, 3>>& h_t,
                                         const std::type_identity_t<view<const T, 3>>& h_s,
                                         const executor_ref& executor = {}) {
  return detail::luong_backward_bytes<A, T>(h_t, h_s, h_s, executor);
}

/// Luong's attention with score dot: out[b,t,:] = sum_s a_ts h_s[b,s,:],  a_t = softmax over visible s of <h_t, h_s>
///
/// No D^-1/2. Keys are the values. Visible are the first options.lengths[b] states; with options.reach = D (local-m) of
/// these the ones with abs(s - t) <= D around the own step t = i + first_step, which stands at the last state once
/// there are no more. Score general, h_t^T W_a h_s: pass luong_projection_forward(h_t, W_a) for h_t.
///
/// h_t  [B,N,D]  target steps
/// h_s  [B,S,D]  source states
/// out  [B,N,D]  output, the paper's c_t; must not overlap an input. Its element type, float, double, bfloat16 or
///               float16, is that of all. Any outer strides; the last axis contiguous.
/// options       see luong_options
///
/// Legal edges: B, N or S = 0, lengths[b] = 0 (out = 0, lse = -inf). States that no step sees are not read.
/// Cost: O(N S D), local-m O(N (2 D + 1)) products and what fills up tiles. Scratch O(D) a worker
/// (luong_dot_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_forward with scale 1.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, N or S above 2^24, bad lengths,
/// reach below 0, a strided last axis, null data, overlap of an output, scratch too small.
/// Paper: Luong, Pham, Manning, Effective Approaches to Attention-based Neural Machine Translation, 2015, sections 3.1
/// and 3.2.
template <writable<3> Out>
void luong_dot_forward(std::type_identity_t<view<const element_of_t<Out>, 3>> h_t,
                       std::type_identity_t<view<const element_of_t<Out>, 3>> h_s, Out&& out,
                       const std::type_identity_t<luong_options<element_of_t<Out>>>& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::luong_dot_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_dot_forward_on<default_arch, S>(h_t, h_s, view_traits<std::remove_reference_t<Out>>::make(out),
                                                  options);
}

/// Gradients of luong_dot_forward by h_t and h_s, the latter as keys and as values.
///
/// h_t, h_s       what luong_dot_forward was given
/// out   [B,N,D]  what it returned
/// lse   [B,N]    and in options.lse
/// dout  [B,N,D]  gradient by out
/// dh_t  [B,N,D]  outputs, overwritten; none may overlap an input or another output
/// dh_s  [B,S,D]
/// options        see luong_backward_options
///
/// Legal edges: as luong_dot_forward; states that no step sees have gradient 0.
/// Cost: 5 / 2 of luong_dot_forward. Scratch as softmax_backward (luong_dot_backward_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_backward.
/// Throws heed::invalid_argument before any write: all that luong_dot_forward throws for, lse missing, extents of out,
/// lse, dout and the gradients that do not fit.
template <writable<3> DT, writable<3> DS>
void luong_dot_backward(std::type_identity_t<view<const element_of_t<DT>, 3>> h_t,
                        std::type_identity_t<view<const element_of_t<DT>, 3>> h_s,
                        std::type_identity_t<view<const element_of_t<DT>, 3>> out,
                        std::type_identity_t<view<const accumulator_t<element_of_t<DT>>, 2>> lse,
                        std::type_identity_t<view<const element_of_t<DT>, 3>> dout, DT&& dh_t, DS&& dh_s,
                        const luong_backward_options& options = {}) {
  using S = element_of_t<DT>;
  static_assert(element<S>, "heed::luong_dot_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_dot_backward_on<default_arch, S>(h_t, h_s, out, lse, dout,
                                                   view_traits<std::remove_reference_t<DT>>::make(dh_t),
                                                   view_traits<std::remove_reference_t<DS>>::make(dh_s), options);
}

HEED_ARCH_END
