/// Gated linear attention: a matrix state that fades by data-dependent gates.
#pragma once

#include <heed/kernel/gated_checks.hpp>
#include <heed/kernel/recurrence_run.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// gated_linear_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, gate_kind Kind, class S>
void gated_linear_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                             gate_view<Kind, const accumulator_t<S>> g, view<S, 4> out,
                             const recurrence_options<S>& options) {
  static_assert(element<S>,
                "heed::gated_linear_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_linear_forward");
    check_recurrence(check, q, k, v, out, options.scale, options.chunk);
    check_gates<Kind>(check, g, k);
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const index_t offset = checked_offset(check, q, k, options.q_offset, options.cu_seqlens, options.reverse);
    const linear_call<S> call = gated_call<Kind>(q, k, v, g, out, options, offset);
    const index_t sequences = call.streams().sequences, heads = call.streams().states;
    check_state(check, options.initial_state, "options.initial_state", sequences, heads, k.extent(3), v.extent(3));
    check_state(check, options.final_state, "options.final_state", sequences, heads, k.extent(3), v.extent(3));
    check_aliasing(check, out, "out", q, k, v, g, options.initial_state);
    check_aliasing(check, options.final_state, "options.final_state", q, k, v, g, out);
    check_handed_on(check, options.final_state, "options.final_state", options.initial_state, "options.initial_state");

    const linear_forward_chunks<A, S, Kind> chunks(call);
    recurrence_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

template <class A, gate_kind Kind, class S>
index_t gated_linear_forward_bytes(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                   const recurrence_options<S>& options) noexcept {
  const linear_call<S> call = gated_call<Kind, S>(q, k, v, {}, {}, options, 0);
  const linear_forward_chunks<A, S, Kind> chunks(call);
  return recurrence_run(chunks, resolve(options.executor)).bytes();
}

}  // namespace detail

/// Scratch, in bytes, that gated_linear_forward needs for tensors of these extents and these options, whatever the
/// gates: what `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t gated_linear_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                           const std::type_identity_t<view<const T, 4>>& k,
                                           const std::type_identity_t<view<const T, 4>>& v,
                                           const std::type_identity_t<recurrence_options<T>>& options = {}) {
  return std::max(detail::gated_linear_forward_bytes<A, detail::gate_kind::feature, T>(q, k, v, options),
                  detail::gated_linear_forward_bytes<A, detail::gate_kind::token, T>(q, k, v, options));
}

/// Gated linear attention: a state of D x E numbers fades by data-dependent gates, token by token, and takes a write
/// from each. With R the state of kv head g(h) = h / (H/G), zero or initial_state before token 0:
///     R_t = diag(exp g_t) R_{t-1} + k_t v_t^T          out[b,h,i,:] = scale R_t^T q[b,h,i,:]     t = i + q_offset
/// or, unrolled: out_i = scale sum_{j <= t} sum_d q_i[d] k_j[d] exp(g_{j+1}[d] + .. + g_t[d]) v_j.
///
/// q    [B,H,N,D]  queries
/// k    [B,G,M,D]  keys; H a multiple of G. Heads of a group share keys, values, gates and the state
/// v    [B,G,M,E]  values
/// g    [B,G,M,D]  natural logs of the gates, at most 0, float (double for double); -inf empties a row of the state
/// out  [B,H,N,E]  output; must not overlap an input. Its element type is that of q, k and v
/// options         see recurrence_options
///
/// Legal edges: N = 0 and M = 0 (the final state is the initial one). Queries before the first key (t < 0) give zeros.
/// Larger q_offset than M - N is refused: there is no gate for such a query.
/// Cost: 2 D E + (chunk + 1) / 2 (D + E) multiply-adds a token, for each query head D E + (chunk + 1) / 2 (D + E) of
/// them; one exponential a gate. In chunks where gates multiply up to less than 1e-20 (1e-150 for double) the second
/// term is made of products of gates one by one, about twice the time in all, and as exact. Scratch: a worker
/// O(chunk (D + E + chunk) + D E); with fewer states than workers, up to 17 of each and four times as much a
/// worker (gated_linear_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads. options.chunk changes the result within rounding.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance.
/// Gates above 1 follow the formula until they overflow.
/// Throws heed::invalid_argument before any write: extents that do not fit, H not a multiple of G, a last axis that is
/// not contiguous, missing data, overlapping outputs, scale not finite, chunk < 1, states of other extents,
/// q_offset > M - N, offsets that decrease or do not end at M, N != M in reverse or in a packed batch.
/// Paper: Yang, Wang, Shen, Panda, Kim, Gated Linear Attention Transformers with Hardware-Efficient Training, 2024,
/// equations 3 and 4.
template <writable<4> Out>
void gated_linear_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                          std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                          const std::type_identity_t<recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::gated_linear_forward_on<default_arch, detail::gate_kind::feature, element_of_t<Out>>(
      q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// The same with one gate a token for all features, g [B,G,M]: Dao and Gu, Transformers are SSMs, 2024 (Mamba-2),
/// section 6, where q, k, v and exp(g) are called C, B, X and A.
template <writable<4> Out>
void gated_linear_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                          std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 3>> g, Out&& out,
                          const std::type_identity_t<recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::gated_linear_forward_on<default_arch, detail::gate_kind::token, element_of_t<Out>>(
      q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
