/// Options of the gradients of softmax attention.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of softmax_backward. T: element type of the tensors. What forward was told must be told again: fields that
/// are named as in softmax_options mean the same. An aggregate: name what you need, in this order.
///
///     heed::softmax_backward(q, k, v, out, lse, dout, dq, dk, dv, {.window_left = 255}, heed::causal{});
template <class T>
struct softmax_backward_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  double softcap = 0;
  view<const T, 4> bias{};
  /// Output: gradient by the bias, of the bias's own extents; sums over axes that are broadcast.
  view<T, 4> dbias{};
  view<const accumulator, 1> sink{};
  /// [B,H,N]: gradient of the loss by lse. Default: lse is no part of the loss.
  view<const accumulator, 3> dlse{};
  /// Output [H]: gradient by the sink.
  view<accumulator, 1> dsink{};
  index_t window_left = -1;
  index_t window_right = -1;
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  sequence_offsets cu_seqlens_q{};
  sequence_offsets cu_seqlens_k{};
  /// Memory for the call; softmax_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
