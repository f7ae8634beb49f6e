/// Options of recurrences over several ranks.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of ring_gated_linear_forward and ring_lightning_forward. T: element type of the tensors. Fields that are named
/// as in recurrence_options mean the same. An aggregate: name what you need, in this order.
///
///     heed::ring_gated_linear_forward(ranks, q, k, v, g, out, {.final_state = state});
template <class T>
struct ring_recurrence_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  index_t chunk = 64;
  /// The state before the first token of all; given to rank 0 alone.
  view<const accumulator, 4> initial_state{};
  /// Output: the state after the last token of this rank.
  view<accumulator, 4> final_state{};
  /// Messages have this tag. Calls that run at the same time over one transport need others.
  int tag = 0;
  /// Memory for the call; ring_gated_linear_forward_scratch_bytes tells how much. Default: memory that the calling
  /// thread keeps (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks of this rank. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of ring_gated_slot_forward. Fields that are named as in gated_slot_options mean the same.
template <class T>
struct ring_gated_slot_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  index_t chunk = 64;
  /// The slots before the first token of all; given to rank 0 alone. Both or none.
  view<const accumulator, 4> initial_keys{};
  view<const accumulator, 4> initial_values{};
  /// Outputs: the slots after the last token of this rank. Both or none.
  view<accumulator, 4> final_keys{};
  view<accumulator, 4> final_values{};
  /// Output [B,H,n,S], of the tokens of this rank.
  view<accumulator, 4> scores{};
  int tag = 0;
  /// Memory for the call; ring_gated_slot_forward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
