/// Entropy, largest weight and mean distance of every row of attention weights.
#pragma once

#include <heed/core/error.hpp>
#include <heed/kernel/statistics_rows.hpp>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that softmax_row_statistics needs for this head size and options: what `options.scratch` must
/// hold. Depends on D, the element type, whether there is a bias, and the executor's concurrency.
template <element T, class A = default_arch>
index_t softmax_row_statistics_scratch_bytes(index_t features,
                                             const std::type_identity_t<softmax_statistics_options<T>>& options = {}) {
  using emit = detail::row_statistics_writer<T, A>;
  return detail::scratch_total(detail::row_worker_bytes<emit, T, A>(features, static_cast<bool>(options.bias), {}),
                               detail::resolve(options.executor).concurrency);
}

namespace detail {

/// softmax_row_statistics for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S, class... Mods>
void softmax_row_statistics_on(view<const S, 4> q, view<const S, 4> k, view<const accumulator_t<S>, 3> lse,
                               const softmax_row_request<S>& request, const softmax_statistics_options<S>& options,
                               const Mods&... mods) {
  const checker check("softmax_row_statistics");
  const auto call = check_statistics(check, q, k, lse, options, mods...);
  check_lse(check, request.entropy, "request.entropy", q, "as q");
  check_lse(check, request.max, "request.max", q, "as q");
  check_lse(check, request.argmax, "request.argmax", q, "as q");
  check_lse(check, request.distance, "request.distance", q, "as q");
  check_statistic(check, request.entropy, "request.entropy", call);
  check_statistic(check, request.max, "request.max", call, request.entropy);
  check_statistic(check, request.argmax, "request.argmax", call, request.entropy, request.max);
  check_statistic(check, request.distance, "request.distance", call, request.entropy, request.max, request.argmax);
  run_rows<A, row_statistics_writer<S, A>>(check, call, {}, request, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Statistics of every row of attention weights P_ij = exp(z_ij - lse_i), z as in softmax_forward: its entropy, its
/// largest weight and the key of that, and how far back it looks.
///
/// q       [B,H,N,D]  queries        k [B,G,M,D]  keys: what softmax_forward was given
/// lse     [B,H,N]    what it returned in options.lse
/// request            outputs, see softmax_row_request; those that are given overlap no input and one another
/// options            see softmax_statistics_options
/// mods               those of the forward call
///
/// With a sink the weights sum to less than 1. The entropy is that of the visible keys alone, divided by their sum; the
/// others take the weights as they are, so in the distance the sink counts as distance 0. In a packed batch keys are
/// numbered as in the tensors, and rows past the last offset are left as they are.
/// Legal edges: N = 0, M = 0; a row that sees nothing (lse = -inf) has entropy, max and distance 0 and argmax -1.
/// Excluded pairs take no part whatever their keys hold.
/// Cost: O(N M D) per head for what the mask leaves. Scratch O(D) a worker (softmax_row_statistics_scratch_bytes):
/// options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: sums are relative to the row's largest weight, so no size of scores cancels. Error of the entropy below
/// 2 u (a sum_j p_j |log p_j + H| + (8 + sqrt(128 + M / 128)) (1 + H + |log max p|)), a = sqrt(D) max|s| + 8, s the
/// scaled products, u = 2^-24 (2^-53); of max and distance as softmax_weights.
/// Throws heed::invalid_argument before any write: all that softmax_forward throws for; extents that do not fit.
/// Paper: Zhai et al., Stabilizing Transformer Training by Preventing Attention Entropy Collapse, 2023.
template <readable<4> Q, class... Mods>
void softmax_row_statistics(const Q& q, std::type_identity_t<view<const value_of_t<Q>, 4>> k,
                            std::type_identity_t<view<const accumulator_t<value_of_t<Q>>, 3>> lse,
                            const std::type_identity_t<softmax_row_request<value_of_t<Q>>>& request,
                            const std::type_identity_t<softmax_statistics_options<value_of_t<Q>>>& options = {},
                            const Mods&... mods) {
  if constexpr (detail::has_statistics<value_of_t<Q>, Mods...>())
    detail::softmax_row_statistics_on<default_arch, value_of_t<Q>>(view_traits<const Q>::make(q), k, lse, request,
                                                                   options, mods...);
}

HEED_ARCH_END
