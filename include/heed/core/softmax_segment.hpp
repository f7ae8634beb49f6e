/// A set of keys among several that the same queries attend to.
#pragma once

#include <heed/config.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of one segment of softmax_segments_forward.
template <class T>
struct softmax_segment_options {
  using accumulator = accumulator_t<T>;

  /// [H], natural log, added to every logit of the segment; -inf removes it. Default: 0.
  view<const accumulator, 1> log_weight{};
  /// If given (then in every segment): the segment has a softmax of its own, and out = sum of blend times its output.
  setting<double> blend{};
  /// As in softmax_options, for this segment's keys.
  index_t window_left = -1;
  index_t window_right = -1;
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  /// [S+1] row offsets of the segment's keys in a packed batch.
  sequence_offsets cu_seqlens_k{};
};

HEED_END
