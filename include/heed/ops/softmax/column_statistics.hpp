/// What every key receives: sums, maxima and last rows of columns of attention weights.
#pragma once

#include <heed/core/error.hpp>
#include <heed/kernel/statistics_columns.hpp>

#include <cmath>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that softmax_column_statistics needs for this head size and options: what `options.scratch` must
/// hold. Depends on D, the element type, whether there is a bias, and the executor's concurrency.
template <element T, class A = default_arch>
index_t softmax_column_statistics_scratch_bytes(
    index_t features, const std::type_identity_t<softmax_statistics_options<T>>& options = {}) {
  return detail::scratch_total(detail::column_worker_bytes<T, A>(features, static_cast<bool>(options.bias)),
                               detail::resolve(options.executor).concurrency);
}

namespace detail {

/// An output [B,H,M] or [B,G,M], if it is asked for.
template <class T, class S>
HEED_COLD void check_column_output(const checker& check, const view<T, 3>& output, const char* name,
                                   const view<const S, 4>& q, const view<const S, 4>& k) {
  if (!output) return;
  check.extent(output, name, 0, q.extent(0), "B, as q");
  if (output.extent(1) != q.extent(1) && output.extent(1) != k.extent(1)) [[unlikely]]
    check.fail_with(
        text("%s.extent(1)", name).c_str(),
        text("H = %lld or G = %lld", static_cast<long long>(q.extent(1)), static_cast<long long>(k.extent(1))).c_str(),
        show(output.extent(1)).c_str());
  check.extent(output, name, 2, k.extent(2), "M, as k");
  check_scattered_output(check, output, name);
}

/// softmax_column_statistics for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S, class... Mods>
void softmax_column_statistics_on(view<const S, 4> q, view<const S, 4> k, view<const accumulator_t<S>, 3> lse,
                                  const softmax_column_request<S>& request,
                                  const softmax_statistics_options<S>& options, const Mods&... mods) {
  const checker check("softmax_column_statistics");
  const auto call = check_statistics(check, q, k, lse, options, mods...);
  check_column_output(check, request.sum, "request.sum", q, k);
  check_column_output(check, request.max, "request.max", q, k);
  check_column_output(check, request.last_row, "request.last_row", q, k);
  if (request.row_weights) check_row_numbers(check, q, request.row_weights, "request.row_weights");
  check.require(std::isfinite(request.threshold) && request.threshold >= 0, "request.threshold",
                "a finite number, at least 0", request.threshold);
  check_statistic(check, request.sum, "request.sum", call, request.row_weights);
  check_statistic(check, request.max, "request.max", call, request.row_weights, request.sum);
  check_statistic(check, request.last_row, "request.last_row", call, request.row_weights, request.sum, request.max);
  column_run<A, std::remove_const_t<decltype(call)>>(call, request)
      .run(check, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Statistics of every column of attention weights P_ij = exp(z_ij - lse_i), z as in softmax_forward: how much each key
/// is attended to in all, at most, and how lately.
///     sum_j = sum_i w_i P_ij        max_j = max_i P_ij        last_row_j = the largest i with P_ij > threshold, or -1
///
/// q       [B,H,N,D]  queries        k [B,G,M,D]  keys: what softmax_forward was given
/// lse     [B,H,N]    what it returned in options.lse
/// request            outputs [B,H,M] or [B,G,M], and the weights and threshold of rows, see softmax_column_request;
///                    those that are given overlap no input and one another
/// options            see softmax_statistics_options
/// mods               those of the forward call
///
/// An output [B,G,M] is about all rows of the H / G heads that share a kv head. Rows of weight 0 take no part, nor cost
/// anything where a whole tile of them follows one another: w = 1 for the last rows and 0 else observes those.
/// In a packed batch rows are numbered as in the tensors, and keys past the last offset are left as they are.
/// Legal edges: N = 0, M = 0, keys that nobody sees (0, 0, -1); rows that see nothing (lse = -inf). Excluded pairs and
/// rows of weight 0 take no part whatever their queries and keys hold.
/// Cost: O(N M D) per head for what the mask leaves. Scratch O(D) a worker (softmax_column_statistics_scratch_bytes):
/// options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads. A key has one task, which visits tiles
/// of rows in ascending order, and heads that are summed over likewise.
/// Accuracy: error of sum below 2 u sum_i (a_i + sqrt(rows summed)) P_ij |w_i|, a_i = sqrt(D) (max|s| + |lse_i|) + 8, s
/// the scaled products, u = 2^-24 (2^-53); of max as softmax_weights.
/// Throws heed::invalid_argument before any write: all that softmax_forward throws for; extents that do not fit; a
/// threshold that is negative or not finite.
/// Paper: Zhang et al., H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, 2023.
template <readable<4> Q, class... Mods>
void softmax_column_statistics(const Q& q, std::type_identity_t<view<const value_of_t<Q>, 4>> k,
                               std::type_identity_t<view<const accumulator_t<value_of_t<Q>>, 3>> lse,
                               const std::type_identity_t<softmax_column_request<value_of_t<Q>>>& request,
                               const std::type_identity_t<softmax_statistics_options<value_of_t<Q>>>& options = {},
                               const Mods&... mods) {
  if constexpr (detail::has_statistics<value_of_t<Q>, Mods...>())
    detail::softmax_column_statistics_on<default_arch, value_of_t<Q>>(view_traits<const Q>::make(q), k, lse, request,
                                                                      options, mods...);
}

HEED_ARCH_END
