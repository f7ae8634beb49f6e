/// Options shared by the operators whose state is a matrix that tokens write to and read from.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of gated_linear_forward and lightning_forward. T: element type of the tensors. An aggregate: name what you
/// need, in this order.
///
///     heed::gated_linear_forward(q, k, v, g, out, {.initial_state = state, .final_state = state});
template <class T>
struct recurrence_options {
  using accumulator = accumulator_t<T>;

  /// Factor of q. Default D^-1/2, for lightning_forward 1. Any finite value.
  setting<double> scale{};
  /// Tokens that are worked on together, at least 1. Changes the result within rounding only. More tokens cost more
  /// multiplications and less traffic of the state.
  index_t chunk = 64;
  /// [B,G,D,E], or [S,G,D,E] of S packed sequences: the state before the first token. Default 0.
  view<const accumulator, 4> initial_state{};
  /// Output of the same extents: the state after the last token. May be the memory of the initial state.
  view<accumulator, 4> final_state{};
  /// Position of query 0 among the keys. Default M - N: the last query stands at the last key.
  setting<index_t> q_offset{};
  /// [S+1]: sequence s of a packed batch (B = 1) owns tokens [cu_seqlens[s], cu_seqlens[s+1]).
  sequence_offsets cu_seqlens{};
  /// Tokens run from the last to the first: the initial state enters at the end.
  bool reverse = false;
  /// Memory for the call; gated_linear_forward_scratch_bytes tells how much. Default: memory that the calling thread
  /// keeps (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of their gradients. What forward was told must be told again: fields that are named alike mean the same.
template <class T>
struct recurrence_backward_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  index_t chunk = 64;
  view<const accumulator, 4> initial_state{};
  /// Output, of the extents of a state: gradient by the initial state.
  view<accumulator, 4> dinitial_state{};
  /// Gradient of the loss by the final state. Default: it is no part of the loss.
  view<const accumulator, 4> dfinal_state{};
  sequence_offsets cu_seqlens{};
  bool reverse = false;
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of their steps.
template <class T>
struct recurrence_step_options {
  setting<double> scale{};
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
