/// Linear attention with feature maps, whole sequences.
#pragma once

#include <heed/kernel/linear_checks.hpp>
#include <heed/kernel/pooled_run.hpp>
#include <heed/kernel/recurrence_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// linear_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void linear_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                       const linear_options<S>& options) {
  static_assert(element<S>, "heed::linear_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("linear_forward");
    check_recurrence(check, q, k, v, out, options.scale, options.chunk);
    check_features(check, options.map, options.normalise, options.scale, options.eps);
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const index_t offset = checked_causal_offset(check, options.causal, q, k, options.q_offset, options.cu_seqlens);
    feature_call<S> call = linear_feature_call(q, k, v, out, options, offset);
    const index_t sequences = call.streams().sequences;
    check_initial_sums(check, options.initial_state, options.initial_sum, sequences, k, v, options.normalise);
    check_state(check, options.final_state, "options.final_state", sequences, k.extent(1), k.extent(3), v.extent(3));
    check_sum(check, options.final_sum, "options.final_sum", sequences, k, options.normalise);
    check.require(!options.denominator || options.normalise, "options.denominator", "none unless normalised", "one");
    check_lse(check, options.denominator, "options.denominator", q, "as q");
    check_apart(check, memory_of(q, k, v), out, "out", options.denominator, "options.denominator");
    check_aliasing(check, options.final_state, "options.final_state", q, k, v, out, options.denominator,
                   options.initial_sum);
    check_handed_on(check, options.final_state, "options.final_state", options.initial_state, "options.initial_state");
    check_handed_on(check, options.final_sum, "options.final_sum", options.initial_sum, "options.initial_sum");
    check_aliasing(check, options.final_sum, "options.final_sum", q, k, v, out, options.denominator,
                   options.initial_state, options.final_state);
    check_aliasing(check, out, "out", options.initial_state, options.initial_sum);
    check_aliasing(check, options.denominator, "options.denominator", options.initial_state, options.initial_sum);

    const executor_ref where = resolve(options.executor);
    if (options.causal && offset < 0 && options.initial_state) {
      // Before the walk, which may write the final state over the initial one.
      const index_t before = std::min(-offset, q.extent(2));
      with_linear_chunks<A>(without_keys(with_queries(call, 0, before)),
                            [&](const auto& chunks) { pooled_run(chunks, where).run(check, options.scratch); });
      call = with_queries(call, before, q.extent(2));
    }
    with_linear_chunks<A>(call, [&](const auto& chunks) {
      if (options.causal)
        recurrence_run(chunks, where).run(check, options.scratch);
      else
        pooled_run(chunks, where).run(check, options.scratch);
    });
  }
}

}  // namespace detail

/// Scratch, in bytes, that linear_forward needs for tensors of these extents and these options: what `options.scratch`
/// must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t linear_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                     const std::type_identity_t<view<const T, 4>>& k,
                                     const std::type_identity_t<view<const T, 4>>& v,
                                     const std::type_identity_t<linear_options<T>>& options = {}) {
  const auto call = detail::linear_feature_call<T>(q, k, v, {}, options, 0);
  index_t bytes = 0;
  const executor_ref where = detail::resolve(options.executor);
  detail::with_linear_chunks<A>(call, [&](const auto& chunks) {
    bytes = options.causal ? detail::recurrence_run(chunks, where).bytes() : detail::pooled_run(chunks, where).bytes();
  });
  return bytes;
}

/// Linear attention: softmax's exp(q . k) replaced by a product of features, so that time is linear in length.
///     out[b,h,i,:] = sum_j w_ij v[b,g(h),j,:] / (sum_j w_ij + eps)     w_ij = scale map(q_i) . map(k_j)
/// without the divisor unless normalised. Keys j: all, or j <= i + q_offset if causal; g(h) = h / (H / G).
///
/// q    [B,H,N,D]  queries
/// k    [B,G,M,D]  keys; H a multiple of G
/// v    [B,G,M,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// options         see linear_options; the defaults are those of the paper: elu_plus_one, normalised, not causal
///
/// States hold sums over keys, so a sequence may come in pieces: pass final_state and final_sum on as the initial ones.
///
/// Legal edges: N = 0; M = 0; queries that see no key: 0, or what the initial state holds. A query whose weights are
/// all 0 gives 0 / eps.
/// Cost: O((N + M) D E) per head, and O(N chunk (D + E)) besides if causal. Scratch O(chunk (D + E + chunk) + D E) a
/// worker; with fewer kv heads than workers, if causal, up to 17 states each and four times as much a worker
/// (linear_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance. A
/// normalised exp is as accurate for inputs of any size: what it adds up are numbers from 0 to 1, relative to the
/// largest so far of each feature. States that it hands out are the sums themselves, and infinite where those are too
/// large.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, D or E zero, a strided
/// last axis, null data, overlap of an output, scale or eps not finite, eps < 0, a normalised exp whose scale is not
/// above 0, chunk < 1, q_offset beyond M - N or without causal, bad cu_seqlens, a sum or denominator of a call that is
/// not normalised, an initial state without its sum, scratch too small.
/// Paper: Katharopoulos, Vyas, Pappas, Fleuret, Transformers are RNNs: Fast Autoregressive Transformers with Linear
/// Attention, 2020, equations 5 to 12.
template <writable<4> Out>
void linear_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                    std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                    std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                    const std::type_identity_t<linear_options<element_of_t<Out>>>& options = {}) {
  detail::linear_forward_on<default_arch, element_of_t<Out>>(
      q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
