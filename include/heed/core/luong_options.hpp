/// Options of attention between an encoder and a decoder (Luong), and of its gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of luong_dot_forward and luong_mlp_forward. T: element type of the tensors. An aggregate: name what you
/// need, in this order.
///
///     heed::luong_dot_forward(h_t, h_s, context, {.lengths = source_lengths, .lse = lse});    // global
///     heed::luong_dot_forward(h_t, h_s, context, {.reach = 10});                              // local-m
template <class T>
struct luong_options {
  using accumulator = accumulator_t<T>;

  /// [B]: source states that count, the first of each batch entry. Default S.
  sequence_lengths lengths{};
  /// Given: only the states s with abs(s - t) <= reach are visible at target step t, which stands at the last state
  /// once there are no more (local-m). Default: all (global).
  setting<index_t> reach{};
  /// Target step of query 0. For reach.
  index_t first_step = 0;
  /// Output [B,N]: natural log of the denominator; -inf where nothing is visible. For backward.
  view<accumulator, 2> lse{};
  /// Memory for the call; <operator>_scratch_bytes tells how much. Default: memory that the calling thread keeps
  /// (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of luong_dot_backward and luong_mlp_backward. What forward was told must be told again.
struct luong_backward_options {
  sequence_lengths lengths{};
  setting<index_t> reach{};
  index_t first_step = 0;
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of luong_local_forward (local-p). Fields that are named as in luong_options mean the same.
///
///     heed::luong_local_forward(h_t, h_s, positions, context, {.reach = 10, .lse = lse});
template <class T>
struct luong_local_options {
  using accumulator = accumulator_t<T>;

  sequence_lengths lengths{};
  /// D: states s with abs(s - floor(p)) <= D are visible. At least 1.
  index_t reach = 10;
  /// Standard deviation of the Gaussian around p, above 0. Default D / 2.
  setting<double> sigma{};
  view<accumulator, 2> lse{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of luong_local_backward. What forward was told must be told again.
struct luong_local_backward_options {
  sequence_lengths lengths{};
  index_t reach = 10;
  setting<double> sigma{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of luong_positions_forward and luong_positions_backward.
struct luong_positions_options {
  /// [B]: source states that count. Default: all sentences have as many as the call says.
  sequence_lengths lengths{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of luong_projection_forward.
template <class T>
struct luong_projection_options {
  using accumulator = accumulator_t<T>;

  /// [O], added to every row.
  view<const accumulator, 1> bias{};
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of luong_projection_backward.
template <class T>
struct luong_projection_backward_options {
  using accumulator = accumulator_t<T>;

  /// Output [O]: gradient by the bias.
  view<accumulator, 1> dbias{};
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
