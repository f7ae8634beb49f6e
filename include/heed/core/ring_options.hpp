/// Options of attention over several ranks.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/token_layout.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of ring_forward. T: element type of the tensors. Fields that are named as in softmax_options mean the same,
/// with global positions. An aggregate: name what you need, in this order.
///
///     heed::ring_forward(ranks, q, k, v, out, {.layout = heed::striped_layout(N, P), .lse = lse}, heed::causal{});
template <class T>
struct ring_options {
  using accumulator = accumulator_t<T>;

  /// Which tokens each rank holds: of q and out, and, if kv_layout is not given, of k and v. No default.
  token_layout layout{};
  token_layout kv_layout{};
  setting<double> scale{};
  double softcap = 0;
  /// [B,H,n,M]: the rows of this rank's queries, for all keys in their global order; axes of extent 1 broadcast.
  view<const T, 4> bias{};
  view<const accumulator, 1> sink{};
  /// Output [B,H,n].
  view<accumulator, 3> lse{};
  index_t window_left = -1;
  index_t window_right = -1;
  /// Position of token 0 of the queries. Default M - N, of all ranks.
  setting<index_t> q_offset{};
  /// Position of token 0 of the keys.
  index_t kv_offset = 0;
  /// Messages have the tags `tag` and `tag` + 1. Calls that run at the same time over one transport need others.
  int tag = 0;
  /// Memory for the call; ring_forward_scratch_bytes tells how much. Default: memory that the calling thread keeps
  /// (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks of this rank. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of ring_backward. What forward was told must be told again: fields that are named alike mean the same.
template <class T>
struct ring_backward_options {
  using accumulator = accumulator_t<T>;

  token_layout layout{};
  token_layout kv_layout{};
  setting<double> scale{};
  double softcap = 0;
  view<const T, 4> bias{};
  /// Output: gradient by the bias, of its own extents, n and M not broadcast: the rows of this rank.
  view<T, 4> dbias{};
  view<const accumulator, 1> sink{};
  /// [B,H,n]: gradient of the loss by lse. Default: lse is no part of the loss.
  view<const accumulator, 3> dlse{};
  /// Output [H]: gradient by the sink, summed over all ranks. If one rank asks for it, all must.
  view<accumulator, 1> dsink{};
  index_t window_left = -1;
  index_t window_right = -1;
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  int tag = 0;
  /// Memory for the call; ring_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
