/// Options of Attention with Bounded-memory Control.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of abc_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::abc_forward(q, k, v, s, out,
///                       {.final_keys = keys, .final_values = values, .final_log_sums = log_sums});
template <class T>
struct abc_options {
  using accumulator = accumulator_t<T>;

  /// Factor of q k^T. Default D^-1/2. Any finite value.
  setting<double> scale{};
  /// Tokens that are worked on together, at least 1. Changes the result within rounding only.
  index_t chunk = 64;
  /// [B,G,D,S] and [B,G,S,E], of n packed sequences [n,G,..]: keys and values of the slots before the first token.
  /// Default 0. Both or none.
  view<const accumulator, 4> initial_keys{};
  view<const accumulator, 4> initial_values{};
  /// [B,G,S]: log of the sum of exp(s) that they are means of. Default, and for slots that were never written, -inf:
  /// they do not fade when the first token adds to them.
  view<const accumulator, 3> initial_log_sums{};
  /// Outputs of the same extents: all three after the last token. May be the memory of the initial ones. Keys and
  /// values both or none; to go on later, all three are needed.
  view<accumulator, 4> final_keys{};
  view<accumulator, 4> final_values{};
  view<accumulator, 3> final_log_sums{};
  /// Output [B,H,N,S]: scaled scores of the slots, which abc_backward asks for.
  view<accumulator, 4> scores{};
  /// [n+1]: sequence r of a packed batch (B = 1) owns tokens [cu_seqlens[r], cu_seqlens[r+1]).
  sequence_offsets cu_seqlens{};
  /// Memory for the call; abc_forward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of abc_backward. What forward was told must be told again: fields that are named alike mean the same.
template <class T>
struct abc_backward_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  index_t chunk = 64;
  view<const accumulator, 4> initial_keys{};
  view<const accumulator, 4> initial_values{};
  view<const accumulator, 3> initial_log_sums{};
  /// Outputs, of the extents of the initial ones: gradients by them. Keys and values both or none.
  view<accumulator, 4> dinitial_keys{};
  view<accumulator, 4> dinitial_values{};
  view<accumulator, 3> dinitial_log_sums{};
  /// Gradients of the loss by the final ones. Default: they are no part of the loss. Keys and values both or none.
  view<const accumulator, 4> dfinal_keys{};
  view<const accumulator, 4> dfinal_values{};
  view<const accumulator, 3> dfinal_log_sums{};
  sequence_offsets cu_seqlens{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of abc_step.
template <class T>
struct abc_step_options {
  setting<double> scale{};
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
