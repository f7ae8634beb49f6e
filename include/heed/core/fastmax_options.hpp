/// Options of FAST, factorizable attention.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// What FAST makes of a query or key x before it multiplies them.
enum class fastmax_norm {
  none,         ///< x
  standardize,  ///< (x - mean) / sqrt(variance + 1e-6), over the features of a token
  maxnorm       ///< limit (x - mean) / norm of its head, or limit x / norm; see fastmax_norms
};

/// Options of fastmax_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::fastmax_forward(q, k, v, out, {.norm = heed::fastmax_norm::standardize, .causal = true});
template <class T>
struct fastmax_options {
  using accumulator = accumulator_t<T>;

  /// Terms of the exponential series: 1 (1 + s) or 2 (1 + s + s^2 / 2).
  int p = 2;
  /// What products are divided by, above 0. Default D^1/2.
  setting<double> tau{};
  fastmax_norm norm = fastmax_norm::none;
  /// Of maxnorm: the length of the longest query or key, and whether the mean is taken off.
  double limit = 1;
  bool centre = true;
  /// [B,H] and [B,G]: norms of maxnorm, above 0; constants for gradients.
  view<const accumulator, 2> query_norms{};
  view<const accumulator, 2> key_norms{};
  /// Query i sees keys up to its own position. Default: all keys.
  bool causal = false;
  /// Tokens that are worked on together, at least 1. Changes the result within rounding only.
  index_t chunk = 64;
  /// Position of query 0 among the keys, if causal. Default M - N.
  setting<index_t> q_offset{};
  /// [B,G,F,E+1], or [S,G,F,E+1] of S packed sequences, F = fastmax_features(D, p): moments of earlier keys. Default 0.
  view<const accumulator, 4> initial_state{};
  /// Output of the same extents: moments of all keys. May be the memory of the initial state.
  view<accumulator, 4> final_state{};
  /// Output [B,H,N], which fastmax_backward asks for: sums of the weights. 0 for a query that sees nothing.
  view<accumulator, 3> denominator{};
  /// [S+1]: sequence s of a packed batch (B = 1) owns tokens [cu_seqlens[s], cu_seqlens[s+1]).
  sequence_offsets cu_seqlens{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of fastmax_backward. What forward was told must be told again: fields that are named alike mean the same.
template <class T>
struct fastmax_backward_options {
  using accumulator = accumulator_t<T>;

  int p = 2;
  setting<double> tau{};
  fastmax_norm norm = fastmax_norm::none;
  double limit = 1;
  bool centre = true;
  view<const accumulator, 2> query_norms{};
  view<const accumulator, 2> key_norms{};
  bool causal = false;
  index_t chunk = 64;
  setting<index_t> q_offset{};
  view<const accumulator, 4> initial_state{};
  sequence_offsets cu_seqlens{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of fastmax_step.
template <class T>
struct fastmax_step_options {
  using accumulator = accumulator_t<T>;

  int p = 2;
  setting<double> tau{};
  fastmax_norm norm = fastmax_norm::none;
  double limit = 1;
  bool centre = true;
  view<const accumulator, 2> query_norms{};
  view<const accumulator, 2> key_norms{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Rows of a state for keys of D features: 1 + D, and D (D + 1) / 2 more for p = 2.
HEED_INLINE constexpr index_t fastmax_features(index_t features, int p) noexcept {
  return 1 + features + (p == 2 ? features * (features + 1) / 2 : 0);
}

HEED_END
