/// FAST, factorizable attention: weights that are a truncated exponential series, at a cost linear in length.
#pragma once

#include <heed/kernel/fastmax_pairs.hpp>
#include <heed/kernel/fastmax_steps.hpp>
#include <heed/kernel/feature_gradient.hpp>
#include <heed/kernel/linear_checks.hpp>
#include <heed/kernel/pooled_backward_run.hpp>
#include <heed/kernel/pooled_run.hpp>
#include <heed/kernel/recurrence_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// A call without states of its own, from the options of any form.
template <class S, class Options>
fastmax_call<S> fastmax_call_of(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                const view<S, 4>& out, const Options& options) noexcept {
  fastmax_call<S> call{};
  call.q = q;
  call.k = k;
  call.v = v;
  call.out = out;
  call.scale = 1;
  call.chunk = 1;
  call.p = options.p;
  call.tau = options.tau.or_default(std::sqrt(double(q.extent(3))));
  call.norm = options.norm;
  call.limit = options.limit;
  call.centre = options.centre;
  call.query_norms = options.query_norms;
  call.key_norms = options.key_norms;
  return call;
}
/// The same of whole sequences.
template <class S, class Options>
fastmax_call<S> fastmax_sequence_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                      const view<S, 4>& out, const Options& options, index_t offset) noexcept {
  fastmax_call<S> call = fastmax_call_of(q, k, v, out, options);
  call.initial_state = options.initial_state;
  call.cu = options.cu_seqlens;
  call.chunk = options.chunk;
  call.offset = offset;
  return call;
}

template <class S, class T>
HEED_COLD void check_norms(const checker& check, const view<const T, 2>& norms, const char* name,
                           const view<const S, 4>& rows, bool wanted) {
  check.require(static_cast<bool>(norms) == wanted || rows.extent(0) * rows.extent(1) == 0, name,
                wanted ? "norms, of maxnorm (fastmax_norms)" : "none without maxnorm", norms ? "norms" : "none");
  if (!norms) return;
  check.extent(norms, name, 0, rows.extent(0), "B");
  check.extent(norms, name, 1, rows.extent(1), "heads");
  for (index_t b = 0; b < norms.extent(0); ++b)
    for (index_t h = 0; h < norms.extent(1); ++h)
      check.require(norms(b, h) > T(0), name, "norms above 0", double(norms(b, h)));
}

template <class S, class Options>
HEED_COLD void check_fastmax(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                             const Options& options) {
  const double tau = options.tau.or_default(1);
  check.require(options.p == 1 || options.p == 2, "options.p", "1 or 2", options.p);
  check.require(std::isfinite(tau) && tau > 0, "options.tau", "a finite number above 0", tau);
  check.require(options.norm >= fastmax_norm::none && options.norm <= fastmax_norm::maxnorm, "options.norm",
                "a fastmax_norm", static_cast<int>(options.norm));
  check.require(std::isfinite(options.limit) && options.limit > 0, "options.limit", "a finite number above 0",
                options.limit);
  check_norms(check, options.query_norms, "options.query_norms", q, options.norm == fastmax_norm::maxnorm);
  check_norms(check, options.key_norms, "options.key_norms", k, options.norm == fastmax_norm::maxnorm);
}

/// fastmax_forward for an instruction set of the caller's choice.
template <class A, class S>
void fastmax_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                        const fastmax_options<S>& options) {
  static_assert(element<S>, "heed::fastmax_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("fastmax_forward");
    check_recurrence(check, q, k, v, out, {}, options.chunk);
    check_fastmax(check, q, k, options);
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const index_t offset = checked_causal_offset(check, options.causal, q, k, options.q_offset, options.cu_seqlens);
    fastmax_call<S> call = fastmax_sequence_call(q, k, v, out, options, offset);
    call.final_state = options.final_state;
    call.denominator = options.denominator;
    const auto check_moments = [&](const auto& state, const char* name) {
      check_state(check, state, name, call.streams().sequences, k.extent(1), call.expanded(), v.extent(3) + 1);
    };
    check_moments(options.initial_state, "options.initial_state");
    check_moments(options.final_state, "options.final_state");
    check_lse(check, options.denominator, "options.denominator", q, "as q");
    check_apart(check, memory_of(q, k, v, options.query_norms, options.key_norms), out, "out", options.denominator,
                "options.denominator", options.final_state, "options.final_state");
    check_handed_on(check, options.final_state, "options.final_state", options.initial_state, "options.initial_state");
    check_aliasing(check, options.initial_state, "options.initial_state", out, options.denominator);

    const executor_ref where = resolve(options.executor);
    if (prefers_pairs(call, options.causal)) {
      fastmax_pairs<A, S, fastmax_rows<A, S>>(call, options.causal, where).attend(check, options.scratch);
      return;
    }
    using chunks_type = linear_forward_chunks<A, S, gate_kind::none, fastmax_rows<A, S>>;
    if (options.causal && offset < 0 && options.initial_state) {
      // Before the walk, which may write the final state over the initial one.
      const index_t before = std::min(-offset, q.extent(2));
      const fastmax_call<S> alone = without_keys(with_queries(call, 0, before));
      const chunks_type chunks(alone);
      pooled_run(chunks, where).run(check, options.scratch);
      call = with_queries(call, before, q.extent(2));
    }
    const chunks_type chunks(call);
    if (options.causal)
      recurrence_run(chunks, where).run(check, options.scratch);
    else
      pooled_run(chunks, where).run(check, options.scratch);
  }
}

/// fastmax_backward for an instruction set of the caller's choice.
template <class A, class S>
void fastmax_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const S, 4> out,
                         view<const accumulator_t<S>, 3> denominator, view<const S, 4> dout, view<S, 4> dq,
                         view<S, 4> dk, view<S, 4> dv, const fastmax_backward_options<S>& options) {
  static_assert(element<S>, "heed::fastmax_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("fastmax_backward");
    check_recurrence_gradients(check, q, k, v, dout, dq, dk, dv, {}, options.chunk, options.cu_seqlens, true);
    check_fastmax(check, q, k, options);
    const index_t offset = checked_causal_offset(check, options.causal, q, k, options.q_offset, options.cu_seqlens);
    check.tensor(out, "out");
    for (int axis = 0; axis < 4; ++axis) check.extent(out, "out", axis, dout.extent(axis), "as dout");
    check_row_numbers(check, q, denominator, "denominator");
    fastmax_gradient_call<S> call{};
    call.forward = fastmax_sequence_call<S>(q, k, v, {}, options, offset);
    check_state(check, options.initial_state, "options.initial_state", call.forward.streams().sequences, k.extent(1),
                call.forward.expanded(), v.extent(3) + 1);
    check_apart(
        check,
        memory_of(q, k, v, out, denominator, dout, options.initial_state, options.query_norms, options.key_norms), dq,
        "dq", dk, "dk", dv, "dv");
    call.out = out;
    call.denominator = denominator;
    call.dout = dout;
    call.dq = dq;
    call.dk = dk;
    call.dv = dv;

    const executor_ref where = resolve(options.executor);
    if (prefers_pairs(call.forward, options.causal)) {
      fastmax_pairs<A, S, fastmax_gradient_rows<A, S>>(call, options.causal, where)
          .differentiate(check, options.scratch);
      return;
    }
    using chunks_type = linear_backward_chunks<A, S, gate_kind::none, fastmax_gradient_rows<A, S>>;
    if (options.causal && offset < 0) {
      const index_t before = std::min(-offset, q.extent(2));
      fastmax_gradient_call<S> alone = gradient_of_queries(call, 0, before);
      alone.forward = without_keys(alone.forward);
      const chunks_type chunks(alone);
      pooled_backward_run(chunks, where).run(check, options.scratch);
      call = gradient_of_queries(call, before, q.extent(2));
    }
    const chunks_type chunks(call);
    if (options.causal)
      recurrence_backward_run(chunks, where).run(check, options.scratch);
    else
      pooled_backward_run(chunks, where).run(check, options.scratch);
  }
}

/// fastmax_step for an instruction set of the caller's choice.
template <class A, class S>
void fastmax_step_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                     view<accumulator_t<S>, 4> state, const fastmax_step_options<S>& options) {
  static_assert(element<S>, "heed::fastmax_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("fastmax_step");
    check_recurrence(check, q, k, v, out, {}, 1);
    check.extent(k, "k", 2, q.extent(2), "N, as q");
    check_fastmax(check, q, k, options);
    const fastmax_call<S> call = fastmax_call_of(q, k, v, out, options);
    check_given_state(check, state, "state", q.extent(0), k.extent(1), call.expanded(), v.extent(3) + 1);
    check_apart(check, memory_of(q, k, v, options.query_norms, options.key_norms), out, "out", state, "state");

    const fastmax_steps<A, S> steps(call, state);
    recurrence_step_run(steps, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that fastmax_forward needs for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t fastmax_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                      const std::type_identity_t<view<const T, 4>>& k,
                                      const std::type_identity_t<view<const T, 4>>& v,
                                      const std::type_identity_t<fastmax_options<T>>& options = {}) {
  auto call = detail::fastmax_sequence_call<T>(q, k, v, {}, options, 0);
  call.final_state = options.final_state;
  const executor_ref where = detail::resolve(options.executor);
  if (detail::prefers_pairs(call, options.causal))
    return detail::fastmax_pairs<A, T, detail::fastmax_rows<A, T>>(call, options.causal, where).bytes();
  const detail::linear_forward_chunks<A, T, detail::gate_kind::none, detail::fastmax_rows<A, T>> chunks(call);
  return options.causal ? detail::recurrence_run(chunks, where).bytes() : detail::pooled_run(chunks, where).bytes();
}

/// The same of fastmax_backward.
template <element T, class A = default_arch>
index_t fastmax_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                       const std::type_identity_t<view<const T, 4>>& k,
                                       const std::type_identity_t<view<const T, 4>>& v,
                                       const std::type_identity_t<fastmax_backward_options<T>>& options = {}) {
  detail::fastmax_gradient_call<T> call{};
  call.forward = detail::fastmax_sequence_call<T>(q, k, v, {}, options, 0);
  const executor_ref where = detail::resolve(options.executor);
  if (detail::prefers_pairs(call.forward, options.causal))
    return detail::fastmax_pairs<A, T, detail::fastmax_gradient_rows<A, T>>(call, options.causal, where).bytes();
  const detail::linear_backward_chunks<A, T, detail::gate_kind::none, detail::fastmax_gradient_rows<A, T>> chunks(call);
  return options.causal ? detail::recurrence_backward_run(chunks, where).bytes()
                        : detail::pooled_backward_run(chunks, where).bytes();
}

/// The same of fastmax_step.
template <element T, class A = default_arch>
index_t fastmax_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                   const std::type_identity_t<view<const T, 4>>& k,
                                   const std::type_identity_t<view<const T, 4>>& v,
                                   const std::type_identity_t<fastmax_step_options<T>>& options = {}) {
  const auto call = detail::fastmax_call_of<T>(q, k, v, {}, options);
  const detail::fastmax_steps<A, T> steps(call, {});
  return detail::recurrence_step_run(steps, detail::resolve(options.executor)).bytes();
}

/// FAST, factorizable attention: softmax attention's exponential cut off after its first terms, so that all pairs
/// count at a cost linear in length.
///     out[b,h,i,:] = sum_j w_ij v[b,g(h),j,:] / sum_j w_ij     w_ij = 1 + s_ij (+ s_ij^2 / 2 if p = 2)
///     s_ij = norm(q_i) . norm(k_j) / tau
/// Keys j: all, or j <= i + q_offset if causal; g(h) = h / (H / G).
///
/// q    [B,H,N,D]  queries
/// k    [B,G,M,D]  keys; H a multiple of G
/// v    [B,G,M,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// options         see fastmax_options
///
/// The weights of p = 2 are at least 1/2. Those of p = 1 are below 0 where s < -1, and their sum may be near 0: out is
/// the quotient all the same. Where products stay below tau, as with maxnorm and tau >= limit^2, they are positive.
///
/// Legal edges: N = 0; M = 0; queries that see no key (0, or what the initial state holds); weights that add up to 0
/// (out = 0).
/// Cost: the least of O(N M (D + E)) per head, pair by pair, and O((N + M) F E) by moments, F = fastmax_features(D, p);
/// calls with a state take moments. Scratch O(chunk (D + E + chunk)) a worker for pairs; for moments O(chunk F + F E),
/// with fewer kv heads than workers, if causal, up to 17 states each and four times as much a worker
/// (fastmax_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance and
/// p = 2; for p = 1 that much times sum_j |w_ij| / |sum_j w_ij|.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, D or E zero, a strided last
/// axis, null data, overlap of an output, p other than 1 and 2, tau or limit not finite or not above 0, maxnorm without
/// norms or norms without it, norms not above 0, chunk < 1, q_offset beyond M - N or without causal, bad cu_seqlens, a
/// state of other extents, scratch too small.
/// Paper: Gerami, Hoover, Dulepet, Duraiswami, FAST: Factorizable Attention for Speeding up Transformers, 2024.
template <writable<4> Out>
void fastmax_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                     const std::type_identity_t<fastmax_options<element_of_t<Out>>>& options = {}) {
  detail::fastmax_forward_on<default_arch, element_of_t<Out>>(
      q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// Gradients of fastmax_forward by its inputs, from dout, the gradient of the loss by out.
///
/// q, k, v        as fastmax_forward had them
/// out            [B,H,N,E]  its output, and
/// denominator    [B,H,N]    the one that it was asked for
/// dout           [B,H,N,E]  gradient by out
/// dq, dk, dv     outputs, of the extents of q, k and v; gradients by keys and values are summed over the query heads
///                that share them. They must not overlap an input or each other.
/// options        see fastmax_backward_options. Norms of maxnorm and the initial state are constants here.
///
/// Legal edges: N = 0; M = 0; queries that see nothing or whose weights add up to 0 (dq = 0).
/// Cost: about 3 times fastmax_forward. By moments and causal, scratch holds up to 64 + N / (64 chunk) states a worker
/// (fastmax_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 1e-4 (1 + max |gradient|) for inputs of unit
/// variance.
/// Throws heed::invalid_argument before any write: as fastmax_forward; no out or denominator.
/// Paper: as fastmax_forward.
template <writable<4> DQ, writable<4> DK, writable<4> DV>
void fastmax_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                      std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> denominator,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                      const std::type_identity_t<fastmax_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::fastmax_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, out, denominator, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv), options);
}

/// Takes the newest tokens into the moments of a causal fastmax_forward and reads them.
///
/// q     [B,H,N,D]    queries, N of each sequence: one, or a few
/// k     [B,G,N,D]    keys; H a multiple of G
/// v     [B,G,N,E]    values
/// out   [B,H,N,E]    output; must not overlap an input. Its element type is that of q, k and v
/// state [B,G,F,E+1]  updated in place, float (double for double); last axis contiguous. Row f is a feature of keys, as
///                    fastmax_features(D, p) counts them: 1, x_a / tau^1/2, and x_a x_b / tau for a <= b, times 2^-1/2
///                    where a = b; its columns are sums over keys of the feature times v, and of the feature.
/// options            see fastmax_step_options; the defaults are those of fastmax_forward
///
/// Legal edges: N = 0.
/// Cost: reads and writes the state once a token, for all heads that share it: 2 F (E + 1) multiply-adds, and F (E + 1)
/// for each further head. Scratch O(H / G (F + E)) a worker (fastmax_step_scratch_bytes): options.scratch, or memory
/// that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as fastmax_forward.
/// Throws heed::invalid_argument before any write: as fastmax_forward; no state.
/// Paper: as fastmax_forward.
template <writable<4> Out, writable<4> State>
void fastmax_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out, State&& state,
                  const std::type_identity_t<fastmax_step_options<element_of_t<Out>>>& options = {}) {
  detail::fastmax_step_on<default_arch, element_of_t<Out>>(
      q, k, v, view_traits<std::remove_reference_t<Out>>::make(out),
      view_traits<std::remove_reference_t<State>>::make(state), options);
}

/// What maxnorm divides by: norms[b,h] = the largest length of the rows x[b,h,i,:], less their means if `centre`; 1
/// where all of them are 0. It looks at whole sequences, so a causal call wants norms that were known before.
///
/// x      [B,H,N,D]  queries or keys, of any element type
/// norms  [B,H]      output, float (double for double), of any strides
/// Cost: O(N D) per head; no scratch.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, null data, a strided last axis.
template <element T>
void fastmax_norms(const view<const T, 4>& x, const view<accumulator_t<T>, 2>& norms, bool centre = true) {
  using acc = accumulator_t<T>;
  const detail::checker check("fastmax_norms");
  check.tensor(x, "x");
  check.extent(norms, "norms", 0, x.extent(0), "B, as x");
  check.extent(norms, "norms", 1, x.extent(1), "H, as x");
  check.require(norms.data() != nullptr || detail::is_empty(norms), "norms", "data", "a null pointer");
  detail::check_aliasing(check, norms, "norms", x);
  const index_t features = x.extent(3);
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h) {
      acc largest = acc(0);
      for (index_t i = 0; i < x.extent(2); ++i) {
        acc mean = acc(0), squares = acc(0);
        for (index_t d = 0; d < features && centre; ++d) mean += static_cast<acc>(x(b, h, i, d)) / acc(features);
        for (index_t d = 0; d < features; ++d) {
          const acc y = static_cast<acc>(x(b, h, i, d)) - mean;
          squares += y * y;
        }
        largest = std::max(largest, squares);
      }
      norms(b, h) = largest > acc(0) ? std::sqrt(largest) : acc(1);
    }
}

HEED_ARCH_END
