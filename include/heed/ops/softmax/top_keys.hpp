/// The keys that rows attend to most.
#pragma once

#include <heed/core/error.hpp>
#include <heed/kernel/statistics_rows.hpp>

#include <cstdint>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that softmax_top_keys needs for this head size, K and options: what `options.scratch` must hold.
/// Depends on D, K, the element type, whether there is a bias, and the executor's concurrency.
template <element T, class A = default_arch>
index_t softmax_top_keys_scratch_bytes(index_t features, index_t most,
                                       const std::type_identity_t<softmax_statistics_options<T>>& options = {}) {
  using emit = detail::top_key_writer<accumulator_t<T>, A>;
  return detail::scratch_total(
      detail::row_worker_bytes<emit, T, A>(features, static_cast<bool>(options.bias), {{nullptr, {0, 0, 0, most}}, {}}),
      detail::resolve(options.executor).concurrency);
}

namespace detail {

/// softmax_top_keys for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S, class... Mods>
void softmax_top_keys_on(view<const S, 4> q, view<const S, 4> k, view<const accumulator_t<S>, 3> lse,
                         const integer_list& rows, view<accumulator_t<S>, 4> weights, view<std::int32_t, 4> indices,
                         const softmax_statistics_options<S>& options, const Mods&... mods) {
  using emit = top_key_writer<accumulator_t<S>, A>;
  const checker check("softmax_top_keys");
  const auto call = check_statistics(check, q, k, lse, options, mods...);
  check_rows(check, call, rows);
  check.output(weights, "weights");
  check.output(indices, "indices");
  check_chosen_extents(check, call, rows, weights, "weights");
  check_chosen_extents(check, call, rows, indices, "indices");
  check.extent(indices, "indices", 3, weights.extent(3), "K, as weights");
  check_statistic(check, weights, "weights", call);
  check_statistic(check, indices, "indices", call, weights);
  if (weights.extent(3) == 0) return;
  run_rows<A, emit>(check, call, rows, {weights, indices}, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// The K largest attention weights of chosen query rows and their keys: weights[b,h,r,n] = P_ij is the n-th largest of
/// row i = rows[r], and indices[b,h,r,n] = j. Descending; among equals the lowest key first.
///
/// q       [B,H,N,D]  queries        k [B,G,M,D]  keys: what softmax_forward was given
/// lse     [B,H,N]    what it returned in options.lse
/// rows               R row numbers, 32 or 64 bit, in any order, for all batch entries and heads; {}: all rows
/// weights [B,H,R,K]  output in the accumulator's type, float (double for double); overlaps no input
/// indices [B,H,R,K]  output, int32
/// options            see softmax_statistics_options
/// mods               those of the forward call
///
/// In a packed batch rows and keys are numbered as in the tensors. With rows = {} rows past the last offset are left as
/// they are.
/// Legal edges: R = 0, M = 0, K = 0; a row that sees fewer than K keys ends with weight 0 and index -1. Excluded keys
/// are never among them whatever they hold, nor are keys whose score is NaN. Scores are compared, so keys whose weights
/// are too small for their type are in order too.
/// Cost: O(R M D) per head for what the mask leaves, and O(K) for each key that is among the K largest so far: few of
/// random scores, all where scores rise from key to key. Rows share work as in softmax_weights. Scratch O(D + K) a
/// worker (softmax_top_keys_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: weights as softmax_weights.
/// Throws heed::invalid_argument before any write: as softmax_weights; extents of indices that do not fit.
/// Paper: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021 (weights recomputed from lse).
template <readable<4> Q, class... Mods>
void softmax_top_keys(const Q& q, std::type_identity_t<view<const value_of_t<Q>, 4>> k,
                      std::type_identity_t<view<const accumulator_t<value_of_t<Q>>, 3>> lse, const integer_list& rows,
                      std::type_identity_t<view<accumulator_t<value_of_t<Q>>, 4>> weights,
                      view<std::int32_t, 4> indices,
                      const std::type_identity_t<softmax_statistics_options<value_of_t<Q>>>& options = {},
                      const Mods&... mods) {
  if constexpr (detail::has_statistics<value_of_t<Q>, Mods...>())
    detail::softmax_top_keys_on<default_arch, value_of_t<Q>>(view_traits<const Q>::make(q), k, lse, rows, weights,
                                                             indices, options, mods...);
}

HEED_ARCH_END
