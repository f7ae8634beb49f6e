/// Attention with Bounded-memory Control: a fixed number of slots that hold weighted means of all keys and values.
#pragma once

#include <heed/core/abc_options.hpp>
#include <heed/kernel/recurrence_run.hpp>
#include <heed/kernel/recurrence_step_run.hpp>
#include <heed/kernel/slot_checks.hpp>
#include <heed/kernel/slot_gradient.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class A, class S>
using abc_forward_chunks = slot_forward_chunks<A, S, slot_writes::controlled>;
template <class A, class S>
using abc_backward_chunks = slot_backward_chunks<A, S, slot_writes::controlled>;
template <class A, class S>
using abc_steps = slot_steps<A, S, slot_writes::controlled>;

/// Extents of control logits, without data, for calls that are asked for their scratch.
template <class S>
view<const accumulator_t<S>, 4> logits_of(const view<const S, 4>& k, index_t slots) noexcept {
  return {nullptr, {k.extent(0), k.extent(1), k.extent(2), slots}};
}

/// Logs of sums [sequences,G,S], given or asked for.
template <class T>
HEED_COLD void check_log_sums(const checker& check, const view<T, 3>& sums, const char* name, index_t sequences,
                              index_t heads, index_t slots) {
  if (!sums) return;
  check.extent(sums, name, 0, sequences, "sequences");
  check.extent(sums, name, 1, heads, "G, the heads of k");
  check.extent(sums, name, 2, slots, "S, as s");
  if constexpr (std::is_const_v<T>)
    check.tensor(sums, name);
  else
    check.output(sums, name);
}

template <class S>
slot_call<S> abc_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                      const view<const accumulator_t<S>, 4>& s, const view<S, 4>& out,
                      const abc_options<S>& options) noexcept {
  slot_call<S> call{};
  call.q = q;
  call.k = k;
  call.v = v;
  call.strengths = s;
  call.out = out;
  call.scores = options.scores;
  call.initial_keys = options.initial_keys;
  call.initial_values = options.initial_values;
  call.final_keys = options.final_keys;
  call.final_values = options.final_values;
  call.cu = options.cu_seqlens;
  call.scale = options.scale.or_default(1 / std::sqrt(double(q.extent(3))));
  call.chunk = options.chunk;
  call.initial_sums = options.initial_log_sums;
  call.final_sums = options.final_log_sums;
  return call;
}

/// abc_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void abc_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const accumulator_t<S>, 4> s,
                    view<S, 4> out, const abc_options<S>& options) {
  static_assert(element<S>, "heed::abc_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("abc_forward");
    check_recurrence(check, q, k, v, out, options.scale, options.chunk);
    check_slot_strengths(check, q, k, s);
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const slot_call<S> call = abc_call(q, k, v, s, out, options);
    const index_t sequences = call.streams().sequences, heads = k.extent(1), slots = s.extent(3);
    check_slots(check, options.initial_keys, "options.initial_keys", options.initial_values, "options.initial_values",
                sequences, k, v, slots);
    check_log_sums(check, options.initial_log_sums, "options.initial_log_sums", sequences, heads, slots);
    check_slots(check, options.final_keys, "options.final_keys", options.final_values, "options.final_values",
                sequences, k, v, slots);
    check_log_sums(check, options.final_log_sums, "options.final_log_sums", sequences, heads, slots);
    if (options.scores) check_slot_scores(check, q, options.scores, "options.scores", slots);
    const auto& initial_keys = options.initial_keys;
    const auto& initial_values = options.initial_values;
    const auto& initial_sums = options.initial_log_sums;
    check_apart(check, memory_of(q, k, v, s, initial_keys, initial_values, initial_sums), out, "out", options.scores,
                "options.scores");
    // The final slots may be the memory of the initial ones, part by part.
    check_aliasing(check, options.final_keys, "options.final_keys", q, k, v, s, out, options.scores, initial_values,
                   initial_sums);
    check_aliasing(check, options.final_values, "options.final_values", q, k, v, s, out, options.scores, initial_keys,
                   initial_sums, options.final_keys);
    check_aliasing(check, options.final_log_sums, "options.final_log_sums", q, k, v, s, out, options.scores,
                   initial_keys, initial_values, options.final_keys, options.final_values);

    const abc_forward_chunks<A, S> chunks(call);
    recurrence_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

template <class S>
slot_gradient_call<S> abc_gradient_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                        const view<const accumulator_t<S>, 4>& s,
                                        const abc_backward_options<S>& options) noexcept {
  abc_options<S> forward{};
  forward.scale = options.scale;
  forward.chunk = options.chunk;
  forward.initial_keys = options.initial_keys;
  forward.initial_values = options.initial_values;
  forward.initial_log_sums = options.initial_log_sums;
  forward.cu_seqlens = options.cu_seqlens;
  slot_gradient_call<S> call{};
  call.forward = abc_call(q, k, v, s, view<S, 4>{}, forward);
  call.dinitial_keys = options.dinitial_keys;
  call.dinitial_values = options.dinitial_values;
  call.dfinal_keys = options.dfinal_keys;
  call.dfinal_values = options.dfinal_values;
  call.dinitial_sums = options.dinitial_log_sums;
  call.dfinal_sums = options.dfinal_log_sums;
  return call;
}

/// abc_backward for an instruction set of the caller's choice.
template <class A, class S>
void abc_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const accumulator_t<S>, 4> s,
                     view<const accumulator_t<S>, 4> scores, view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk,
                     view<S, 4> dv, view<accumulator_t<S>, 4> ds, const abc_backward_options<S>& options) {
  static_assert(element<S>, "heed::abc_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("abc_backward");
    check_recurrence_gradients(check, q, k, v, dout, dq, dk, dv, options.scale, options.chunk, options.cu_seqlens);
    check_slot_strengths(check, q, k, s);
    check_slot_scores(check, q, scores, "scores", s.extent(3));
    check.output(ds, "ds");
    for (int axis = 0; axis < 4; ++axis) check.extent(ds, "ds", axis, s.extent(axis), "as s");
    slot_gradient_call<S> call = abc_gradient_call(q, k, v, s, options);
    const index_t sequences = call.forward.streams().sequences;
    const auto check_three = [&](const auto& keys, const char* keys_name, const auto& values, const char* values_name,
                                 const auto& sums, const char* sums_name) {
      check_slots(check, keys, keys_name, values, values_name, sequences, k, v, s.extent(3));
      check_log_sums(check, sums, sums_name, sequences, k.extent(1), s.extent(3));
    };
    check_three(options.initial_keys, "options.initial_keys", options.initial_values, "options.initial_values",
                options.initial_log_sums, "options.initial_log_sums");
    check_three(options.dinitial_keys, "options.dinitial_keys", options.dinitial_values, "options.dinitial_values",
                options.dinitial_log_sums, "options.dinitial_log_sums");
    check_three(options.dfinal_keys, "options.dfinal_keys", options.dfinal_values, "options.dfinal_values",
                options.dfinal_log_sums, "options.dfinal_log_sums");
    check_apart(
        check,
        memory_of(q, k, v, s, scores, dout, options.initial_keys, options.initial_values, options.initial_log_sums,
                  options.dfinal_keys, options.dfinal_values, options.dfinal_log_sums),
        dq, "dq", dk, "dk", dv, "dv", ds, "ds", options.dinitial_keys, "options.dinitial_keys", options.dinitial_values,
        "options.dinitial_values", options.dinitial_log_sums, "options.dinitial_log_sums");
    call.scores = scores;
    call.dout = dout;
    call.dq = dq;
    call.dk = dk;
    call.dv = dv;
    call.ds = ds;

    const abc_backward_chunks<A, S> chunks(call);
    recurrence_backward_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

/// abc_step for an instruction set of the caller's choice.
template <class A, class S>
void abc_step_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const accumulator_t<S>, 4> s,
                 view<S, 4> out, view<accumulator_t<S>, 4> slot_keys, view<accumulator_t<S>, 4> slot_values,
                 view<accumulator_t<S>, 3> log_sums, const abc_step_options<S>& options) {
  static_assert(element<S>, "heed::abc_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("abc_step");
    check_recurrence(check, q, k, v, out, options.scale, 1);
    check_slot_strengths(check, q, k, s);
    const index_t batch = q.extent(0), heads = k.extent(1), slots = s.extent(3);
    check_given_state(check, slot_keys, "slot_keys", batch, heads, k.extent(3), slots);
    check_given_state(check, slot_values, "slot_values", batch, heads, slots, v.extent(3));
    check.require(static_cast<bool>(log_sums) || batch * heads == 0, "log_sums", "data", "a null pointer");
    check_log_sums(check, log_sums, "log_sums", batch, heads, slots);
    check_apart(check, memory_of(q, k, v, s), out, "out", slot_keys, "slot_keys", slot_values, "slot_values", log_sums,
                "log_sums");

    abc_options<S> forward{};
    forward.scale = options.scale;
    const slot_call<S> call = abc_call(q, k, v, s, out, forward);
    const abc_steps<A, S> steps(call, slot_keys, slot_values, log_sums);
    recurrence_step_run(steps, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that abc_forward needs for tensors of these extents, `slots` slots and these options: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t abc_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                  const std::type_identity_t<view<const T, 4>>& k,
                                  const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                                  const std::type_identity_t<abc_options<T>>& options = {}) {
  const auto call = detail::abc_call<T>(q, k, v, detail::logits_of<T>(k, slots), {}, options);
  const detail::abc_forward_chunks<A, T> chunks(call);
  return detail::recurrence_run(chunks, detail::resolve(options.executor)).bytes();
}

/// The same of abc_backward.
template <element T, class A = default_arch>
index_t abc_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                   const std::type_identity_t<view<const T, 4>>& k,
                                   const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                                   const std::type_identity_t<abc_backward_options<T>>& options = {}) {
  const auto call = detail::abc_gradient_call<T>(q, k, v, detail::logits_of<T>(k, slots), options);
  const detail::abc_backward_chunks<A, T> chunks(call);
  return detail::recurrence_backward_run(chunks, detail::resolve(options.executor)).bytes();
}

/// The same of abc_step.
template <element T, class A = default_arch>
index_t abc_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                               const std::type_identity_t<view<const T, 4>>& k,
                               const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                               const std::type_identity_t<abc_step_options<T>>& options = {}) {
  const auto call = detail::abc_call<T>(q, k, v, detail::logits_of<T>(k, slots), {}, {});
  const detail::abc_steps<A, T> steps(call, {}, {});
  return detail::recurrence_step_run(steps, detail::resolve(options.executor)).bytes();
}

/// Attention with Bounded-memory Control: each of S slots holds the mean of all keys and of all values so far, weighted
/// by exp of the logits that control the slot; queries attend to the slots with softmax. With g(h) = h / (H/G):
///     K_t[m] = sum_{j <= t} exp(s_j[m]) k_j / sum_{j <= t} exp(s_j[m])     V_t[m] the same of v
///     out[b,h,t,:] = sum_m softmax_m(scale q[b,h,t,:] . K_t[m]) V_t[m]
/// This is Gated Slot Attention with strengths exp(s_t - z_t) and gates exp(z_{t-1} - z_t), where z_t is the log of the
/// sum of exp(s) so far. They are made a chunk at a time.
///
/// q    [B,H,N,D]  queries
/// k    [B,G,N,D]  keys; H a multiple of G. Heads of a group share keys, values, logits and slots
/// v    [B,G,N,E]  values
/// s    [B,G,N,S]  control logits, float (double for double): any size, -inf included, for a token that leaves a slot
///                 alone; but neither +inf nor NaN
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 q, k and v. Any outer strides; the last axis contiguous
/// options         see abc_options
///
/// A constant added to all logits of a slot changes nothing. out[b,h,0,:] is v_0 without initial slots.
///
/// Legal edges: N = 0; slots never written have score 0 and value 0, and take part.
/// Cost: a token 2 S (D + E) + (chunk + 1) / 2 (D + 2 S + E) multiply-adds, a kv head an exponential and a logarithm a
/// logit, a query head an exponential a slot; chunks whose logits rise by 69 (667 for double) or more take about twice
/// as long. Scratch: a worker O(chunk (D + E + S + chunk) + S (D + E)); with fewer kv heads than workers, up
/// to 17 states each and four times as much a worker (abc_forward_scratch_bytes): options.scratch, or memory that the
/// thread keeps.
/// Deterministic: bit-equal for any executor and number of threads. options.chunk changes the result within rounding.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance,
/// plus the rounding of out to its type. Strengths below 1e-30 (1e-290) are taken for 0.
/// Throws heed::invalid_argument before any write: extents that do not fit, H not a multiple of G, S = 0, a last axis
/// that is not contiguous, missing data, overlapping outputs, scale not finite, chunk < 1, states of other extents,
/// keys of slots without values, offsets that decrease or do not end at N.
/// Paper: Peng, Kasai, Pappas, Yogatama, Wu, Kong, Schwartz, Smith, ABC: Attention with Bounded-memory Control, 2022,
/// sections 2.2 and 3.
template <writable<4> Out>
void abc_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                 std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                 std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                 std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> s, Out&& out,
                 const std::type_identity_t<abc_options<element_of_t<Out>>>& options = {}) {
  detail::abc_forward_on<default_arch, element_of_t<Out>>(
      q, k, v, s, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// Gradients of a loss by q, k, v and s, given those by out, and by the final slots and log sums.
///
/// q, k, v, s         what abc_forward was given
/// scores [B,H,N,S]   what it returned in options.scores
/// dout   [B,H,N,E]   gradient by out
/// dq     [B,H,N,D]   gradient by q, an output as are the others; none may overlap an input or another output
/// dk     [B,G,N,D]   gradient by k
/// dv     [B,G,N,E]   gradient by v. Element types are those of dq
/// ds     [B,G,N,S]   gradient by the control logits, float (double for double)
/// options            see abc_backward_options
///
/// Legal edges: N = 0. The first logit of a slot without history has no gradient but that of final log sums.
/// Cost: 5 / 2 of abc_forward; beyond 64 chunks the states are computed once more. One task a kv head. Scratch: a
/// worker O(chunk (D + E + S + chunk)) and 67 states, and one more for every 64 chunks of the longest sequence
/// (abc_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 1e-4 (1 + max |gradient|) for inputs of unit
/// variance, of ds 5e-4 (1 + max |ds|).
/// Throws heed::invalid_argument before any write: as abc_forward; extents of scores, dout and the gradients that do
/// not fit.
/// Paper: as abc_forward; Zhang et al., Gated Slot Attention for Efficient Linear-Time Sequence Modeling, 2024,
/// appendix A, for the two readings.
template <writable<4> DQ, writable<4> DK, writable<4> DV, writable<4> DS>
void abc_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                  std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                  std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                  std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 4>> s,
                  std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 4>> scores,
                  std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv, DS&& ds,
                  const std::type_identity_t<abc_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::abc_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, s, scores, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv),
      view_traits<std::remove_reference_t<DS>>::make(ds), options);
}

/// Takes the newest tokens into the slots and reads them, as abc_forward does.
///
/// q           [B,H,N,D]  queries, N of each sequence: one, or a few
/// k, v        [B,G,N,D], [B,G,N,E]  keys and values; H a multiple of G
/// s           [B,G,N,S]  control logits, float (double for double)
/// out         [B,H,N,E]  output; must not overlap an input. Its element type is that of q, k and v
/// slot_keys   [B,G,D,S]  updated in place, float (double for double), last axes contiguous, as are
/// slot_values [B,G,S,E]
/// log_sums    [B,G,S]    log of the sum of exp(s) so far: fill it with -inf, and the others with 0, before the first
///                        token
/// options                see abc_step_options; scale defaults to D^-1/2
///
/// Legal edges: N = 0.
/// Cost: reads and writes both states once a token, for all heads that share them. Scratch O(H / G (D + S + E)) a
/// worker; allocates nothing once the thread keeps enough, or with options.scratch (abc_step_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as abc_forward.
/// Throws heed::invalid_argument before any write: as abc_forward; a state that is missing.
/// Paper: as abc_forward.
template <writable<4> Out, writable<4> Keys, writable<4> Values, writable<3> Sums>
void abc_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
              std::type_identity_t<view<const element_of_t<Out>, 4>> k,
              std::type_identity_t<view<const element_of_t<Out>, 4>> v,
              std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> s, Out&& out, Keys&& slot_keys,
              Values&& slot_values, Sums&& log_sums,
              const std::type_identity_t<abc_step_options<element_of_t<Out>>>& options = {}) {
  detail::abc_step_on<default_arch, element_of_t<Out>>(q, k, v, s, view_traits<std::remove_reference_t<Out>>::make(out),
                                                       view_traits<std::remove_reference_t<Keys>>::make(slot_keys),
                                                       view_traits<std::remove_reference_t<Values>>::make(slot_values),
                                                       view_traits<std::remove_reference_t<Sums>>::make(log_sums),
                                                       options);
}

HEED_ARCH_END
