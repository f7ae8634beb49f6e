/// Options of efficient attention and of its gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// How queries and keys become non-negative features, or do not.
enum class efficient_mode {
  softmax,  ///< softmax of a query over its features, and of a feature over all keys
  scaling   ///< divided by the root of the number of keys
};

/// Options of efficient_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::efficient_forward(q, k, v, out, {.kv_lengths = lengths});
template <class T>
struct efficient_options {
  using accumulator = accumulator_t<T>;

  efficient_mode mode = efficient_mode::softmax;
  /// [B]: rows of k and v that count, the first of each batch entry. Default M.
  sequence_lengths kv_lengths{};
  /// Outputs [B,G,D] of mode softmax, for backward: the largest key of every feature, -inf without keys, and the sum of
  /// e^(key - largest).
  view<accumulator, 3> key_max{};
  view<accumulator, 3> key_sum{};
  /// Memory for the call; efficient_forward_scratch_bytes tells how much. Default: memory that
  /// the calling thread keeps (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of efficient_backward. Fields that are named as in efficient_options mean the same.
template <class T>
struct efficient_backward_options {
  efficient_mode mode = efficient_mode::softmax;
  sequence_lengths kv_lengths{};
  /// Memory for the call; efficient_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
