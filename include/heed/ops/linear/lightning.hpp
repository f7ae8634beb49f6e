/// Lightning Attention, and RetNet's retention: linear attention whose state fades by a constant of each head.
#pragma once

#include <heed/kernel/gated_gradient_checks.hpp>
#include <heed/kernel/recurrence_run.hpp>
#include <heed/kernel/recurrence_step_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class T>
HEED_COLD void check_slopes(const checker& check, const view<const T, 1>& slopes, index_t heads) {
  check.extent(slopes, "slopes", 0, heads, "H, the heads of q");
  check.require(slopes.data() != nullptr || heads == 0, "slopes", "data", "a null pointer");
  for (index_t h = 0; h < heads; ++h)
    check.require(slopes[h] >= 0, "slopes", "numbers of at least 0", static_cast<double>(slopes[h]));
}

/// A call with one gate a query head, from one with gates of tokens, and the default scale of Lightning Attention.
template <class S>
void make_constant(linear_call<S>& call, const view<const accumulator_t<S>, 1>& slopes,
                   const setting<double>& scale) noexcept {
  call.slopes = slopes;
  call.scale = scale.or_default(1);
}

/// Slopes [heads] without data, for calls that are asked for their scratch.
template <class T>
view<const T, 1> slopes_of(index_t heads) noexcept {
  return {nullptr, {heads}};
}

/// lightning_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void lightning_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                          view<const accumulator_t<S>, 1> slopes, view<S, 4> out,
                          const recurrence_options<S>& options) {
  static_assert(element<S>, "heed::lightning_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("lightning_forward");
    check_recurrence(check, q, k, v, out, options.scale, options.chunk);
    check_slopes(check, slopes, q.extent(1));
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const index_t offset = checked_offset(check, q, k, options.q_offset, options.cu_seqlens, options.reverse);
    linear_call<S> call = gated_call<gate_kind::token>(q, k, v, {}, out, options, offset);
    make_constant(call, slopes, options.scale);
    const index_t sequences = call.streams().sequences, heads = q.extent(1);
    check_state(check, options.initial_state, "options.initial_state", sequences, heads, k.extent(3), v.extent(3));
    check_state(check, options.final_state, "options.final_state", sequences, heads, k.extent(3), v.extent(3));
    check_aliasing(check, out, "out", q, k, v, slopes, options.initial_state);
    check_aliasing(check, options.final_state, "options.final_state", q, k, v, slopes, out);
    check_handed_on(check, options.final_state, "options.final_state", options.initial_state, "options.initial_state");

    const linear_forward_chunks<A, S, gate_kind::token> chunks(call);
    recurrence_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

/// lightning_backward for an instruction set of the caller's choice. dslopes may be empty.
template <class A, class S>
void lightning_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                           view<const accumulator_t<S>, 1> slopes, view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk,
                           view<S, 4> dv, view<accumulator_t<S>, 2> dslopes, bool wants_slopes,
                           const recurrence_backward_options<S>& options) {
  static_assert(element<S>, "heed::lightning_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("lightning_backward");
    check_recurrence_gradients(check, q, k, v, dout, dq, dk, dv, options.scale, options.chunk, options.cu_seqlens);
    check_slopes(check, slopes, q.extent(1));
    auto call = gated_gradient_call<gate_kind::token, S>(q, k, v, {}, dout, dq, dk, dv, {}, options);
    make_constant(call.forward, slopes, options.scale);
    if (wants_slopes) {
      check.extent(dslopes, "dslopes", 0, call.forward.streams().sequences, "sequences");
      check.extent(dslopes, "dslopes", 1, q.extent(1), "H, the heads of q");
      check.output(dslopes, "dslopes");
      call.dslopes = dslopes;
    }
    check_states(check, call.forward, options);
    check_apart(check, memory_of(q, k, v, slopes, dout, options.initial_state, options.dfinal_state), dq, "dq", dk,
                "dk", dv, "dv", dslopes, "dslopes", options.dinitial_state, "options.dinitial_state");

    const linear_backward_chunks<A, S, gate_kind::token> chunks(call);
    recurrence_backward_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

template <class S>
linear_call<S> lightning_step_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                   const view<const accumulator_t<S>, 1>& slopes, const view<S, 4>& out,
                                   const recurrence_step_options<S>& options) noexcept {
  linear_call<S> call = gated_call<gate_kind::token, S>(q, k, v, {}, out, {}, 0);
  make_constant(call, slopes, options.scale);
  return call;
}

/// lightning_step for an instruction set of the caller's choice.
template <class A, class S>
void lightning_step_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                       view<const accumulator_t<S>, 1> slopes, view<S, 4> out, view<accumulator_t<S>, 4> state,
                       const recurrence_step_options<S>& options) {
  static_assert(element<S>, "heed::lightning_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("lightning_step");
    check_recurrence(check, q, k, v, out, options.scale, 1);
    check.extent(k, "k", 2, q.extent(2), "N, as q");
    check_slopes(check, slopes, q.extent(1));
    check_given_state(check, state, "state", q.extent(0), q.extent(1), k.extent(3), v.extent(3));
    check_apart(check, memory_of(q, k, v, slopes), out, "out", state, "state");

    const linear_call<S> call = lightning_step_call(q, k, v, slopes, out, options);
    const linear_steps<A, S, gate_kind::token> steps(call, state);
    recurrence_step_run(steps, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that lightning_forward needs for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t lightning_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                        const std::type_identity_t<view<const T, 4>>& k,
                                        const std::type_identity_t<view<const T, 4>>& v,
                                        const std::type_identity_t<recurrence_options<T>>& options = {}) {
  using namespace detail;
  linear_call<T> call = gated_call<gate_kind::token, T>(q, k, v, {}, {}, options, 0);
  call.slopes = slopes_of<accumulator_t<T>>(q.extent(1));
  const linear_forward_chunks<A, T, gate_kind::token> chunks(call);
  return recurrence_run(chunks, resolve(options.executor)).bytes();
}

/// The same of lightning_backward.
template <element T, class A = default_arch>
index_t lightning_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                         const std::type_identity_t<view<const T, 4>>& k,
                                         const std::type_identity_t<view<const T, 4>>& v,
                                         const std::type_identity_t<recurrence_backward_options<T>>& options = {}) {
  using namespace detail;
  auto call = gated_gradient_call<gate_kind::token, T>(q, k, v, {}, {}, {}, {}, {}, {}, options);
  call.forward.slopes = slopes_of<accumulator_t<T>>(q.extent(1));
  const linear_backward_chunks<A, T, gate_kind::token> chunks(call);
  return recurrence_backward_run(chunks, resolve(options.executor)).bytes();
}

/// The same of lightning_step.
template <element T, class A = default_arch>
index_t lightning_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                     const std::type_identity_t<view<const T, 4>>& k,
                                     const std::type_identity_t<view<const T, 4>>& v,
                                     const std::type_identity_t<recurrence_step_options<T>>& options = {}) {
  using namespace detail;
  const auto call = lightning_step_call<T>(q, k, v, slopes_of<accumulator_t<T>>(q.extent(1)), {}, options);
  const linear_steps<A, T, gate_kind::token> steps(call, {});
  return recurrence_step_run(steps, resolve(options.executor)).bytes();
}

/// Lightning Attention: out[b,h,i,:] = scale sum_{j <= i} exp(-slopes[h] (i - j)) (q_i . k_j) v[b,g(h),j,:]
///
/// that is, of each query head, with g(h) = h / (H / G),
///     state = exp(-slopes[h]) state + k_t v_t^T     out_t = scale state^T q_t
///
/// q      [B,H,N,D]  queries
/// k      [B,G,M,D]  keys; H a multiple of G
/// v      [B,G,M,E]  values
/// slopes [H]        how fast a head forgets, at least 0; float (double for double). 0: plain causal linear attention,
///                   infinity: every token sees itself alone. lightning_slopes, linear_slopes and retention_slopes make
///                   those of the papers
/// out    [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that
///                   of q, k and v. Any outer strides; the last axis contiguous
/// options           see recurrence_options; scale defaults to 1, and states are those of query heads, [B,H,D,E]
///
/// RetNet's retention is this with retention_slopes and .scale = 1 / sqrt(D).
///
/// Legal edges: N = 0, M = 0. Query i stands at key i + q_offset (default M - N) and sees the keys up to it; before the
/// first key, out = 0.
/// Cost: 2 D E + chunk (D + E) / 2 multiply-adds a token and query head, whatever the length. Powers of the decay are
/// computed once a head. Scratch O(chunk (D + E + chunk) + D E) a worker; with fewer heads than workers, up to 17
/// states each and four times as much a worker (lightning_forward_scratch_bytes): options.scratch, or memory that the
/// thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance,
/// plus the rounding of out to its type. Decays below 1e-30 (1e-290) are taken for 0.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, D or E zero, a strided last
/// axis, null data, overlap of an output, a slope that is negative or NaN, a scale not finite, chunk < 1, q_offset
/// above M - N, bad cu_seqlens, states of other extents, scratch too small.
/// Paper: Qin et al., Lightning Attention-2, 2024, algorithm 1; Sun et al., Retentive Network, 2023, equation 7.
template <writable<4> Out>
void lightning_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                       std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 1>> slopes, Out&& out,
                       const std::type_identity_t<recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::lightning_forward_on<default_arch, element_of_t<Out>>(
      q, k, v, slopes, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// Gradients of lightning_forward with N = M: of sum(dout * out) + sum(dfinal_state * final state).
///
/// q, k, v, slopes   what forward was given
/// dout [B,H,N,E]    gradient by out
/// dq   [B,H,N,D]    outputs, of the extents of q, k and v: gradients; dk and dv are sums over the query heads that
/// dk   [B,G,N,D]    share them
/// dv   [B,G,N,E]
/// options           see recurrence_backward_options; scale defaults to 1, and states are [B,H,D,E]
///
/// Legal edges: N = 0.
/// Cost: about three times that of forward, linear in N; heads that share k and v follow each other. Scratch
/// O(chunk (D + E + chunk) + (64 + N / (64 chunk)) D E) a worker (lightning_backward_scratch_bytes): states are
/// recomputed, 64 chunks at a time.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: |error| <= 1e-4 (1 + max |gradient|) in float for inputs of unit variance, plus the rounding to the
/// outputs' type, of dk and dv once a query head.
/// Throws heed::invalid_argument before any write: as lightning_forward.
/// Paper: Qin et al., Lightning Attention-2, 2024, algorithm 2.
template <writable<4> DQ, writable<4> DK, writable<4> DV>
void lightning_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                        std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 1>> slopes,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                        const std::type_identity_t<recurrence_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::lightning_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, slopes, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv), {}, false,
      options);
}

/// The same with the gradients by the slopes: dslopes [B,H], of every sequence alone ([S,H] of S packed sequences), so
/// that those of the batch are sums over the first axis. |error| <= 5e-4 (1 + max |dslopes|) in float.
template <writable<4> DQ, writable<4> DK, writable<4> DV, writable<2> DSlopes>
void lightning_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                        std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 1>> slopes,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                        DSlopes&& dslopes,
                        const std::type_identity_t<recurrence_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::lightning_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, slopes, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv),
      view_traits<std::remove_reference_t<DSlopes>>::make(dslopes), true, options);
}

/// Takes the newest tokens into the states of query heads and reads them, as lightning_forward does:
///     state = exp(-slopes[h]) state + k_t v_t^T     out_t = scale state^T q_t     for t = 0 .. N - 1
///
/// q      [B,H,N,D]  queries, N of each sequence: one, or a few; lightning_forward is faster from about 8 on
/// k, v   [B,G,N,D], [B,G,N,E]  keys and values; H a multiple of G
/// slopes [H]        at least 0, float (double for double)
/// out    [B,H,N,E]  output; must not overlap an input. Its element type is that of q, k and v
/// state  [B,H,D,E]  updated in place, float (double for double); last axis contiguous
/// options           see recurrence_step_options; scale defaults to 1
///
/// Legal edges: N = 0.
/// Cost: reads and writes the state once a token: 2 D E multiply-adds. Scratch O(D + E) a worker; allocates nothing
/// once the thread keeps enough, or with options.scratch (lightning_step_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as lightning_forward.
/// Throws heed::invalid_argument before any write: as lightning_forward; no state.
/// Paper: Sun et al., Retentive Network, 2023, equation 6.
template <writable<4> Out, writable<4> State>
void lightning_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                    std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                    std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                    std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 1>> slopes, Out&& out,
                    State&& state,
                    const std::type_identity_t<recurrence_step_options<element_of_t<Out>>>& options = {}) {
  detail::lightning_step_on<default_arch, element_of_t<Out>>(
      q, k, v, slopes, view_traits<std::remove_reference_t<Out>>::make(out),
      view_traits<std::remove_reference_t<State>>::make(state), options);
}

HEED_ARCH_END
