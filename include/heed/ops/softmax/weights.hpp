/// Attention weights of chosen rows.
#pragma once

#include <heed/core/error.hpp>
#include <heed/kernel/statistics_rows.hpp>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that softmax_weights needs for this head size and options: what `options.scratch` must hold.
/// Depends on D, the element type, whether there is a bias, and the executor's concurrency.
template <element T, class A = default_arch>
index_t softmax_weights_scratch_bytes(index_t features,
                                      const std::type_identity_t<softmax_statistics_options<T>>& options = {}) {
  using emit = detail::weight_writer<accumulator_t<T>, A>;
  return detail::scratch_total(detail::row_worker_bytes<emit, T, A>(features, static_cast<bool>(options.bias), {}),
                               detail::resolve(options.executor).concurrency);
}

namespace detail {

/// softmax_weights for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S, class... Mods>
void softmax_weights_on(view<const S, 4> q, view<const S, 4> k, view<const accumulator_t<S>, 3> lse,
                        const integer_list& rows, view<accumulator_t<S>, 4> weights,
                        const softmax_statistics_options<S>& options, const Mods&... mods) {
  const checker check("softmax_weights");
  const auto call = check_statistics(check, q, k, lse, options, mods...);
  check_rows(check, call, rows);
  check.output(weights, "weights");
  check_chosen_extents(check, call, rows, weights, "weights");
  check.extent(weights, "weights", 3, k.extent(2), "M, as k");
  check_statistic(check, weights, "weights", call);
  run_rows<A, weight_writer<accumulator_t<S>, A>>(check, call, rows, weights, options.scratch,
                                                  resolve(options.executor));
}

}  // namespace detail

/// Attention weights of chosen query rows: weights[b,h,r,j] = P_ij = exp(z_ij - lse_i) of visible pairs, else 0, with
/// i = rows[r] and z as in softmax_forward.
///
/// q       [B,H,N,D]  queries        k [B,G,M,D]  keys: what softmax_forward was given
/// lse     [B,H,N]    what it returned in options.lse, so with a sink rows sum to less than 1
/// rows               R row numbers, 32 or 64 bit, in any order, for all batch entries and heads; {}: all rows
/// weights [B,H,R,M]  output in the accumulator's type, float (double for double); overlaps no input
/// options            see softmax_statistics_options
/// mods               those of the forward call
///
/// In a packed batch rows and keys are numbered as in the tensors: a row's weights stand where its sequence's keys
/// stand, with 0 beside them. With rows = {} rows past the last offset are left as they are.
/// Legal edges: R = 0, M = 0; rows that see nothing (lse = -inf) are 0. Excluded pairs give 0 whatever their keys hold.
/// Cost: O(R M D) per head for what the mask leaves. Consecutive rows are computed together, a vector of them in the
/// time of one, if they are neighbours in the list too. Scratch O(D) a worker (softmax_weights_scratch_bytes):
/// options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: error below 2 u (sqrt(D) (max|s| + |lse|) + 8) P, s the scaled products, u = 2^-24 (2^-53); what is below
/// the normal range is 0.
/// Throws heed::invalid_argument before any write: all that softmax_forward throws for; rows outside of [0, N), or that
/// no sequence owns; extents of lse or weights that do not fit.
/// Paper: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021 (weights recomputed from lse).
template <readable<4> Q, class... Mods>
void softmax_weights(const Q& q, std::type_identity_t<view<const value_of_t<Q>, 4>> k,
                     std::type_identity_t<view<const accumulator_t<value_of_t<Q>>, 3>> lse, const integer_list& rows,
                     std::type_identity_t<view<accumulator_t<value_of_t<Q>>, 4>> weights,
                     const std::type_identity_t<softmax_statistics_options<value_of_t<Q>>>& options = {},
                     const Mods&... mods) {
  if constexpr (detail::has_statistics<value_of_t<Q>, Mods...>())
    detail::softmax_weights_on<default_arch, value_of_t<Q>>(view_traits<const Q>::make(q), k, lse, rows, weights,
                                                            options, mods...);
}

HEED_ARCH_END
