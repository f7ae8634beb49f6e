/// Options of Gated Slot Attention.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of gated_slot_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::gated_slot_forward(q, k, v, s, g, out, {.final_keys = slot_keys, .final_values = slot_values});
template <class T>
struct gated_slot_options {
  using accumulator = accumulator_t<T>;

  /// Factor of q k^T. Default D^-1/2; the paper's layer uses 1. Any finite value.
  setting<double> scale{};
  /// Tokens that are worked on together, at least 1. Changes the result within rounding only.
  index_t chunk = 64;
  /// [B,G,D,S] and [B,G,S,E], of n packed sequences [n,G,..]: keys and values of the slots before the first token.
  /// Default 0. Both or none.
  view<const accumulator, 4> initial_keys{};
  view<const accumulator, 4> initial_values{};
  /// Outputs of the same extents: the slots after the last token. May be the memory of the initial ones. Both or none.
  view<accumulator, 4> final_keys{};
  view<accumulator, 4> final_values{};
  /// Output [B,H,N,S]: scaled scores of the slots, which gated_slot_backward asks for.
  view<accumulator, 4> scores{};
  /// [n+1]: sequence r of a packed batch (B = 1) owns tokens [cu_seqlens[r], cu_seqlens[r+1]).
  sequence_offsets cu_seqlens{};
  /// Memory for the call; gated_slot_forward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of gated_slot_backward. What forward was told must be told again: fields that are named alike mean the same.
template <class T>
struct gated_slot_backward_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  index_t chunk = 64;
  view<const accumulator, 4> initial_keys{};
  view<const accumulator, 4> initial_values{};
  /// Outputs, of the extents of the slots: gradients by the initial ones. Both or none.
  view<accumulator, 4> dinitial_keys{};
  view<accumulator, 4> dinitial_values{};
  /// Gradients of the loss by the final slots. Default: they are no part of the loss. Both or none.
  view<const accumulator, 4> dfinal_keys{};
  view<const accumulator, 4> dfinal_values{};
  sequence_offsets cu_seqlens{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of gated_slot_step.
template <class T>
struct gated_slot_step_options {
  setting<double> scale{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of slot_gates_forward and slot_gates_backward.
struct slot_gates_options {
  /// Damping of the gates, above 0: the larger, the slower slots fade. 8 in the paper.
  double tau = 8;
  executor_ref executor{};
};

HEED_END
