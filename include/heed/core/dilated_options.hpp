/// Options of dilated windows and of their gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of dilated_forward. T: element type of the tensors. An aggregate: name what you need, in this order. Fields
/// that are named as in softmax_options mean the same.
///
///     heed::dilated_forward(q, k, v, out, {.step = 4, .reach = 1024, .lse = lse}, heed::causal{});
template <class T>
struct dilated_options {
  using accumulator = accumulator_t<T>;

  /// Keys whose distance from the query is a multiple of this are visible. 1 (a plain window) to 2^20.
  index_t step = 1;
  /// If they are no further away than this. -1: unbounded.
  index_t reach = -1;
  setting<double> scale{};
  double softcap = 0;
  view<const accumulator, 1> sink{};
  view<accumulator, 3> lse{};
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  /// Memory for the call; dilated_forward_scratch_bytes tells how much. Default: memory that the calling thread keeps
  /// (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of dilated_backward. What forward was told must be told again: fields that are named as in dilated_options
/// mean the same, others what they mean in softmax_backward_options.
template <class T>
struct dilated_backward_options {
  using accumulator = accumulator_t<T>;

  index_t step = 1;
  index_t reach = -1;
  setting<double> scale{};
  double softcap = 0;
  view<const accumulator, 1> sink{};
  view<const accumulator, 3> dlse{};
  view<accumulator, 1> dsink{};
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  /// Memory for the call; dilated_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
