/// Gated Slot Attention: a bounded memory of slots that fade, read with softmax.
#pragma once

#include <heed/kernel/recurrence_run.hpp>
#include <heed/kernel/slot_checks.hpp>
#include <heed/kernel/slot_chunks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
slot_call<S> gated_slot_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                             const view<const accumulator_t<S>, 4>& s, const view<const accumulator_t<S>, 4>& g,
                             const view<S, 4>& out, const gated_slot_options<S>& options) noexcept {
  return {q,
          k,
          v,
          s,
          g,
          out,
          options.scores,
          options.initial_keys,
          options.initial_values,
          options.final_keys,
          options.final_values,
          options.cu_seqlens,
          options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
          options.chunk};
}

/// gated_slot_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void gated_slot_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                           view<const accumulator_t<S>, 4> s, view<const accumulator_t<S>, 4> g, view<S, 4> out,
                           const gated_slot_options<S>& options) {
  static_assert(element<S>, "heed::gated_slot_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_slot_forward");
    check_recurrence(check, q, k, v, out, options.scale, options.chunk);
    check_slot_writes(check, q, k, s, g);
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const slot_call<S> call = gated_slot_call(q, k, v, s, g, out, options);
    const index_t sequences = call.streams().sequences, slots = s.extent(3);
    check_slots(check, options.initial_keys, "options.initial_keys", options.initial_values, "options.initial_values",
                sequences, k, v, slots);
    check_slots(check, options.final_keys, "options.final_keys", options.final_values, "options.final_values",
                sequences, k, v, slots);
    if (options.scores) check_slot_scores(check, q, options.scores, "options.scores", slots);
    check_aliasing(check, out, "out", q, k, v, s, g, options.initial_keys, options.initial_values);
    check_aliasing(check, options.scores, "options.scores", q, k, v, s, g, out, options.initial_keys,
                   options.initial_values);
    check_aliasing(check, options.final_keys, "options.final_keys", q, k, v, s, g, out, options.scores,
                   options.initial_values);
    check_aliasing(check, options.final_values, "options.final_values", q, k, v, s, g, out, options.scores,
                   options.initial_keys, options.final_keys);
    check_handed_on(check, options.final_keys, "options.final_keys", options.initial_keys, "options.initial_keys");
    check_handed_on(check, options.final_values, "options.final_values", options.initial_values,
                    "options.initial_values");

    const slot_forward_chunks<A, S> chunks(call);
    recurrence_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that gated_slot_forward needs for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t gated_slot_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                         const std::type_identity_t<view<const T, 4>>& k,
                                         const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                                         const std::type_identity_t<gated_slot_options<T>>& options = {}) {
  const view<const accumulator_t<T>, 4> s(nullptr, {k.extent(0), k.extent(1), k.extent(2), slots});
  const auto call = detail::gated_slot_call<T>(q, k, v, s, s, {}, options);
  const detail::slot_forward_chunks<A, T> chunks(call);
  return detail::recurrence_run(chunks, detail::resolve(options.executor)).bytes();
}

/// Gated Slot Attention: each of S slots keeps a key and a value that fade and take a write from every token; queries
/// attend to the slots with softmax. With K [D,S] and V [S,E] the slots of kv head g(h) = h / (H/G):
///     K_t = K_{t-1} diag(exp g_t) + k_t s_t^T     V_t = diag(exp g_t) V_{t-1} + s_t v_t^T
///     out[b,h,t,:] = V_t^T softmax(scale K_t^T q[b,h,t,:])
///
/// q    [B,H,N,D]  queries
/// k    [B,G,N,D]  keys; H a multiple of G. Heads of a group share keys, values, gates and slots
/// v    [B,G,N,E]  values
/// s    [B,G,N,S]  how strongly a token writes to each slot, float (double for double), as is
/// g    [B,G,N,S]  the natural logs of the gates, at most 0; -inf empties a slot. The paper's layer ties s = 1 - exp(g)
/// out  [B,H,N,E]  output; must not overlap an input. Its element type is that of q, k and v
/// options         see gated_slot_options
///
/// Legal edges: N = 0. The softmax is over all slots, always: those that were never written have score 0 and value 0.
/// Causal; S >= N with g = 0 and s one-hot is softmax attention over the keys so far and S - t - 1 keys of zeros.
/// Cost: a token 2 S (D + E) + (chunk + 1) / 2 (D + 2 S + E) multiply-adds, a kv head one exponential a gate, a query
/// head one a slot; chunks where gates multiply up to less than 1e-20 (1e-150 for double) take about twice as long.
/// Scratch: a worker O(chunk (D + E + S + chunk) + S (D + E)); with fewer kv heads than workers, up to 17
/// states each and four times as much a worker (gated_slot_forward_scratch_bytes): options.scratch, or memory that the
/// thread keeps.
/// Deterministic: bit-equal for any executor and number of threads. options.chunk changes the result within rounding.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance.
/// Throws heed::invalid_argument before any write: extents that do not fit, H not a multiple of G, S = 0, a last axis
/// that is not contiguous, missing data, overlapping outputs, scale not finite, chunk < 1, states of other extents or
/// one without the other, offsets that decrease or do not end at N.
/// Paper: Zhang et al., Gated Slot Attention for Efficient Linear-Time Sequence Modeling, 2024, section 3.
template <writable<4> Out>
void gated_slot_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                        std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                        std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                        std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> s,
                        std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                        const std::type_identity_t<gated_slot_options<element_of_t<Out>>>& options = {}) {
  detail::gated_slot_forward_on<default_arch, element_of_t<Out>>(
      q, k, v, s, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
