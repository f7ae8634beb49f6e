/// Attention of a decoder to an encoder whose scores a small perceptron makes (Luong's concat, Bahdanau's additive).
#pragma once

#include <heed/kernel/additive_score.hpp>
#include <heed/kernel/luong_call.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
HEED_COLD void check_score_weights(const checker& check, const view<const S, 3>& q,
                                   const view<const accumulator_t<S>, 1>& v_a) {
  check.extent(v_a, "v_a", 0, q.extent(2), "A, as q");
  check.require(v_a.data() != nullptr || is_empty(v_a), "v_a", "data", "a null pointer");
}

/// luong_mlp_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void luong_mlp_forward_on(view<const S, 3> q, view<const S, 3> k, view<const accumulator_t<S>, 1> v_a,
                          view<const S, 3> h_s, view<S, 3> out, const luong_options<S>& options) {
  const checker check("luong_mlp_forward");
  const named_states<S> queries{q, "q"}, keys{k, "k"}, values{h_s, "h_s"};
  check_luong(check, queries, keys, values, options.lengths);
  check_score_weights(check, q, v_a);
  check.output(out, "out");
  check_contexts(check, out, "out", queries, values);
  if (options.lse) check_step_numbers(check, options.lse, "options.lse", queries);
  check_steps(check, options.reach, options.first_step);
  check_aliasing(check, out, "out", q, k, v_a, h_s);
  check_aliasing(check, options.lse, "options.lse", q, k, v_a, h_s, out);
  run_luong<A>(check, q, k, h_s, out, options.lse, options.first_step,
               window_of(options.lengths, k.extent(1), options.reach), options.scratch, options.executor,
               additive_score<accumulator_t<S>>{v_a, {}});
}

/// luong_mlp_backward for an instruction set of the caller's choice.
template <class A, class S>
void luong_mlp_backward_on(view<const S, 3> q, view<const S, 3> k, view<const accumulator_t<S>, 1> v_a,
                           view<const S, 3> h_s, view<const S, 3> out, view<const accumulator_t<S>, 2> lse,
                           view<const S, 3> dout, view<S, 3> dq, view<S, 3> dk, view<accumulator_t<S>, 1> dv_a,
                           view<S, 3> dh_s, const luong_backward_options& options) {
  const checker check("luong_mlp_backward");
  const named_states<S> queries{q, "q"}, keys{k, "k"}, values{h_s, "h_s"};
  check_luong(check, queries, keys, values, options.lengths);
  check_score_weights(check, q, v_a);
  check_contexts(check, out, "out", queries, values);
  check_contexts(check, dout, "dout", queries, values);
  check_step_numbers(check, lse, "lse", queries);
  check_output_like(check, dq, "dq", q, "q");
  check_output_like(check, dk, "dk", k, "k");
  check_output_like(check, dh_s, "dh_s", h_s, "h_s");
  check.extent(dv_a, "dv_a", 0, q.extent(2), "A, as q");
  check.require(dv_a.data() != nullptr || is_empty(dv_a), "dv_a", "data", "a null pointer");
  check.require(distinct_elements(dv_a), "dv_a", "an output whose elements are distinct",
                "strides that make them overlap");
  check_steps(check, options.reach, options.first_step);
  const auto apart = [&](const auto& output, const char* name, const auto&... outputs) {
    check_aliasing(check, output, name, q, k, v_a, h_s, out, lse, dout, outputs...);
  };
  apart(dq, "dq");
  apart(dk, "dk", dq);
  apart(dv_a, "dv_a", dq, dk);
  apart(dh_s, "dh_s", dq, dk, dv_a);
  const luong_gradients<S> call{q, k, h_s, out, lse, dout, dq, dk, dh_s};
  run_luong_backward<A>(check, call, options.first_step, window_of(options.lengths, k.extent(1), options.reach),
                        options.scratch, options.executor, additive_score<accumulator_t<S>>{v_a, dv_a});
}

}  // namespace detail

/// Scratch, in bytes, that luong_mlp_forward needs for A hidden features and states of `features` numbers: what
/// `options.scratch` must hold.
template <element T, class A = default_arch>
index_t luong_mlp_forward_scratch_bytes(index_t hidden, index_t features, const executor_ref& executor = {}) {
  return detail::luong_bytes<T, A>(hidden, features, executor);
}

/// Scratch, in bytes, that luong_mlp_backward needs for tensors of these extents. Data is not looked at.
template <element T, class A = default_arch>
index_t luong_mlp_backward_scratch_bytes(const std::type_identity_t<view<const T, 3>>& q,
                                         const std::type_identity_t<view<const T, 3>>& k,
                                         const std::type_identity_t<view<const T, 3>>& h_s,
                                         const executor_ref& executor = {}) {
  const detail::additive_score<accumulator_t<T>> score{{nullptr, {q.extent(2)}}, {}};
  return detail::luong_backward_bytes<A, T>(q, k, h_s, executor, score);
}

/// Attention with score mlp: out[b,t,:] = sum_s a_ts h_s[b,s,:],  a_t = softmax over visible s of
/// v_a . tanh(q[b,t,:] + k[b,s,:])
///
/// q = h_t W_1 + b and k = h_s W_2 are luong_projection_forward's: made once, not once a pair. Together they are the
/// paper's concat, v_a . tanh(W_a [h_t; h_s]). Visible states are those of luong_dot_forward.
///
/// q    [B,N,A]  projected target steps
/// k    [B,S,A]  projected source states
/// v_a  [A]      in the accumulator's type (float; double for double), of any stride
/// h_s  [B,S,E]  source states
/// out  [B,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///               q, k and h_s. Any outer strides; the last axis contiguous.
/// options       see luong_options
///
/// Legal edges: as luong_dot_forward.
/// Cost: O(N S A) tanh, which no product of matrices replaces: for A = E some 6 times luong_dot_forward. Scratch
/// O(A + E) a worker (luong_mlp_forward_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: scores to u (A + 8) sum |v_a|, u = 2^-24 (2^-53 for double); the rest as softmax_forward.
/// Throws heed::invalid_argument before any write: all that luong_dot_forward throws for, v_a of other extents.
/// Paper: Luong, Pham, Manning, Effective Approaches to Attention-based Neural Machine Translation, 2015, eq. 8
/// (concat); Bahdanau, Cho, Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, 2015.
template <writable<3> Out>
void luong_mlp_forward(std::type_identity_t<view<const element_of_t<Out>, 3>> q,
                       std::type_identity_t<view<const element_of_t<Out>, 3>> k,
                       std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 1>> v_a,
                       std::type_identity_t<view<const element_of_t<Out>, 3>> h_s, Out&& out,
                       const std::type_identity_t<luong_options<element_of_t<Out>>>& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::luong_mlp_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_mlp_forward_on<default_arch, S>(q, k, v_a, h_s, view_traits<std::remove_reference_t<Out>>::make(out),
                                                  options);
}

/// Gradients of luong_mlp_forward. With u = tanh(q_t + k_s) and dz_ts the gradient by the score, as in
/// softmax_backward:
///     dq_t = sum_s dz v_a (1 - u^2)   dk_s = sum_t dz v_a (1 - u^2)   dv_a = sum_ts dz u   dh_s = sum_t a_ts dout_t
///
/// q, k, v_a, h_s  what luong_mlp_forward was given
/// out   [B,N,E]   what it returned
/// lse   [B,N]     and in options.lse
/// dout  [B,N,E]   gradient by out
/// dq    [B,N,A]   outputs, overwritten; none may overlap an input or another output
/// dk    [B,S,A]
/// dv_a  [A]       in the accumulator's type
/// dh_s  [B,S,E]   by the values alone: what comes back through k is luong_projection_backward's
/// options         see luong_backward_options
///
/// Legal edges: as luong_dot_forward.
/// Cost: some 3 times luong_mlp_forward: its tanh twice. Scratch as softmax_backward
/// (luong_mlp_backward_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_backward; dv_a adds up tasks in double.
/// Throws heed::invalid_argument before any write: all that luong_mlp_forward throws for, lse missing, extents of out,
/// lse, dout and the gradients that do not fit.
template <writable<3> DQ, writable<3> DK, writable<3> DS>
void luong_mlp_backward(std::type_identity_t<view<const element_of_t<DQ>, 3>> q,
                        std::type_identity_t<view<const element_of_t<DQ>, 3>> k,
                        std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 1>> v_a,
                        std::type_identity_t<view<const element_of_t<DQ>, 3>> h_s,
                        std::type_identity_t<view<const element_of_t<DQ>, 3>> out,
                        std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 2>> lse,
                        std::type_identity_t<view<const element_of_t<DQ>, 3>> dout, DQ&& dq, DK&& dk,
                        std::type_identity_t<view<accumulator_t<element_of_t<DQ>>, 1>> dv_a, DS&& dh_s,
                        const luong_backward_options& options = {}) {
  using S = element_of_t<DQ>;
  static_assert(element<S>, "heed::luong_mlp_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_mlp_backward_on<default_arch, S>(q, k, v_a, h_s, out, lse, dout,
                                                   view_traits<std::remove_reference_t<DQ>>::make(dq),
                                                   view_traits<std::remove_reference_t<DK>>::make(dk), dv_a,
                                                   view_traits<std::remove_reference_t<DS>>::make(dh_s), options);
}

HEED_ARCH_END
