/// Options of the statistics of softmax attention, and what they can be asked for.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

#include <cstdint>

HEED_BEGIN

/// Options of softmax_weights, softmax_top_keys, softmax_row_statistics and softmax_column_statistics. T: element type
/// of q and k. What forward was told must be told again: fields mean what they mean in softmax_options; its sink is in
/// the lse. An aggregate: name what you need, in this order.
///
///     heed::softmax_weights(q, k, lse, rows, weights, {.window_left = 255}, heed::causal{});
template <class T>
struct softmax_statistics_options {
  setting<double> scale{};
  double softcap = 0;
  view<const T, 4> bias{};
  index_t window_left = -1;
  index_t window_right = -1;
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  sequence_offsets cu_seqlens_q{};
  sequence_offsets cu_seqlens_k{};
  /// Memory for the call; the operator's _scratch_bytes function tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

/// What softmax_row_statistics is asked for: outputs [B,H,N] of any strides; those not given are not written.
template <class T>
struct softmax_row_request {
  using accumulator = accumulator_t<T>;

  /// - sum_j p_j log p_j in nats, where p are the weights of the visible keys, divided by their sum.
  view<accumulator, 3> entropy{};
  /// max_j P_j
  view<accumulator, 3> max{};
  /// The key of that weight, the first of several; -1 where there is none.
  view<std::int32_t, 3> argmax{};
  /// sum_j P_j (p - t_j), p and t_j the positions of query and key: how far back the row looks.
  view<accumulator, 3> distance{};
};

/// What softmax_column_statistics is asked for: outputs [B,H,M], or [B,G,M] over the heads that share a kv head, of any
/// strides; those not given are not written.
template <class T>
struct softmax_column_request {
  using accumulator = accumulator_t<T>;

  /// sum_i w_i P_ij; also over heads.
  view<accumulator, 3> sum{};
  /// max_i P_ij, 0 where nobody sees the key; over heads the largest.
  view<accumulator, 3> max{};
  /// The last row i with P_ij > threshold, -1 if there is none; over heads the last.
  view<std::int32_t, 3> last_row{};
  /// [B,H,N]: w of the sum. Default 1. Rows of weight 0 take no part in any output.
  view<const accumulator, 3> row_weights{};
  /// At least 0.
  double threshold = 0;
};

HEED_END
