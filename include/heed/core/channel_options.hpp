/// Options of channel attention and of its gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>

HEED_BEGIN

/// Options of channel_forward. An aggregate: name what you need, in this order.
///
///     heed::channel_forward(q, k, v, out, {.scale = 1 / std::sqrt(double(N))});
struct channel_options {
  /// Factor of q^T k. Default C^-1/2. Any finite value.
  setting<double> scale{};
  /// Memory for the call; channel_forward_scratch_bytes tells how much. Default: memory that the calling thread keeps
  /// (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of channel_backward. What forward was told must be told again: fields that are named as in channel_options
/// mean the same.
struct channel_backward_options {
  setting<double> scale{};
  /// Memory for the call; channel_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
