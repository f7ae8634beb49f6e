/// Options of linear attention with feature maps.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// What linear attention makes of queries and keys.
enum class feature_map {
  identity,      ///< x; of either sign, so not to be normalised
  elu_plus_one,  ///< x + 1 if x > 0, else e^x
  relu,          ///< max(x, 0)
  exp,           ///< e^x
  softmax        ///< softmax of the features of one token
};

/// Options of linear_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::linear_forward(q, k, v, out, {.causal = true, .final_state = state, .final_sum = sum});
template <class T>
struct linear_options {
  using accumulator = accumulator_t<T>;

  feature_map map = feature_map::elu_plus_one;
  /// Divide by the sum of the weights plus eps.
  bool normalise = true;
  /// Query i sees keys up to its own position. Default: all keys.
  bool causal = false;
  /// Factor of the weights. Default 1 if normalised, else D^-1/2. Any finite value; above 0 for a normalised exp.
  setting<double> scale{};
  /// At least 0. 0 divides a query of no weight by 0.
  double eps = 1e-6;
  /// Tokens that are worked on together, at least 1. Changes the result within rounding only.
  index_t chunk = 64;
  /// Position of query 0 among the keys, if causal. Default M - N: the last query stands at the last key.
  setting<index_t> q_offset{};
  /// [B,G,D,E], or [S,G,D,E] of S packed sequences: sum of map(k) v^T over earlier keys. Default 0.
  view<const accumulator, 4> initial_state{};
  /// [B,G,D] or [S,G,D]: sum of map(k) over earlier keys. With the initial state, if normalised.
  view<const accumulator, 3> initial_sum{};
  /// Outputs of the same extents: the sums over all keys. May be the memory of the initial ones. The second one needs a
  /// normalised call.
  view<accumulator, 4> final_state{};
  view<accumulator, 3> final_sum{};
  /// Output [B,H,N] of a normalised call, which linear_backward asks for: what a row was divided by; if the map is exp,
  /// whose sums may be beyond any number, the natural logarithm of it. 0 (-inf) for a query that sees nothing.
  view<accumulator, 3> denominator{};
  /// [S+1]: sequence s of a packed batch (B = 1) owns tokens [cu_seqlens[s], cu_seqlens[s+1]).
  sequence_offsets cu_seqlens{};
  /// Memory for the call; linear_forward_scratch_bytes tells how much. Default: memory that the calling thread keeps
  /// (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of linear_backward. What forward was told must be told again: fields that are named alike mean the same.
template <class T>
struct linear_backward_options {
  using accumulator = accumulator_t<T>;

  feature_map map = feature_map::elu_plus_one;
  bool normalise = true;
  bool causal = false;
  setting<double> scale{};
  index_t chunk = 64;
  setting<index_t> q_offset{};
  view<const accumulator, 4> initial_state{};
  view<const accumulator, 3> initial_sum{};
  sequence_offsets cu_seqlens{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of linear_step.
template <class T>
struct linear_step_options {
  feature_map map = feature_map::elu_plus_one;
  bool normalise = true;
  setting<double> scale{};
  double eps = 1e-6;
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
