/// Options of softmax attention step by step.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of softmax_step. T: element type of the queries. Fields that are named as in softmax_options mean the same.
/// An aggregate: name what you need, in this order.
///
///     heed::softmax_step(q, k, v, out, {.lse = lse, .kv_lengths = lengths});
template <class T>
struct softmax_step_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  double softcap = 0;
  view<const T, 4> bias{};
  view<const accumulator, 1> sink{};
  view<accumulator, 3> lse{};
  index_t window_left = -1;
  index_t window_right = -1;
  /// Position of query 0. Default, for each sequence: that of its last key, less N - 1.
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  /// [B]: rows of k and v that count, the first of each sequence. Default M. A cache knows its own.
  sequence_lengths kv_lengths{};
  /// Keys that one task reads, rounded up to a multiple of 64, and to a 64th of the sequence. At least 1.
  index_t split = 2048;
  /// Memory for the call; softmax_step_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
