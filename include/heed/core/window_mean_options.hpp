/// Options of means over the last tokens, and of their gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/view.hpp>

#include <cstdint>

HEED_BEGIN

/// Options of window_mean_forward and window_mean_backward.
///
///     heed::window_mean_forward(x, 5, out, {.mask = is_token});
struct window_mean_options {
  /// [B,N]: tokens that count; 0 is padding. Default: all.
  view<const std::uint8_t, 2> mask{};
  /// Memory for the call; window_mean_scratch_bytes tells how much. Default: memory that the calling thread keeps
  /// (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

HEED_END
