/// Options of agent attention, of its gradients, and of what vision models have around it.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/token_grid.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of agent_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::agent_forward(q, a, k, v, out, {.agent_bias = b1, .query_bias = b2});
template <class T>
struct agent_options {
  using accumulator = accumulator_t<T>;

  /// Factor of a k^T, by which agents gather. Default D^-1/2. Any finite value.
  setting<double> scale{};
  /// Factor of q a^T, by which queries read the agents. Default D^-1/2. Any finite value.
  setting<double> agent_scale{};
  /// [B,H,n,M], added to the scores of agents and keys; axes of extent 1 broadcast; -inf excludes a pair.
  view<const T, 4> agent_bias{};
  /// [B,H,N,n], added to the scores of queries and agents; likewise.
  view<const T, 4> query_bias{};
  /// [B]: rows of k and v that count, the first of each batch entry. Default M.
  sequence_lengths kv_lengths{};
  /// Output [B,H,n,E]: what the agents gathered. For backward, with agent_lse and lse.
  view<T, 4> agent_values{};
  /// Output [B,H,n]: natural log of the denominators of the agents; -inf where no key is visible.
  view<accumulator, 3> agent_lse{};
  /// Output [B,H,N]: the same of the queries.
  view<accumulator, 3> lse{};
  /// Memory for the call; agent_forward_scratch_bytes tells how much. Default: memory that
  /// the calling thread keeps (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of agent_backward. What forward was told must be told again: fields that are named as in agent_options mean
/// the same.
template <class T>
struct agent_backward_options {
  setting<double> scale{};
  setting<double> agent_scale{};
  view<const T, 4> agent_bias{};
  /// Output: gradient by agent_bias, of its own extents; sums over axes that are broadcast.
  view<T, 4> dagent_bias{};
  view<const T, 4> query_bias{};
  /// Output: gradient by query_bias, likewise.
  view<T, 4> dquery_bias{};
  sequence_lengths kv_lengths{};
  /// Memory for the call; agent_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

/// Options of agent_pooling_forward and agent_pooling_backward.
///
///     heed::agent_pooling_forward(q, a, {.tokens = heed::token_grid{14, 14}, .agents = heed::token_grid{7, 7}});
struct agent_pooling_options {
  /// Default: a line of N tokens, and of n agents.
  setting<token_grid> tokens{};
  setting<token_grid> agents{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of the biases of agent attention.
struct agent_bias_options {
  executor_ref executor{};
};

/// Options of agent_depthwise_forward and agent_depthwise_backward.
struct agent_depthwise_options {
  /// Default: a line of N tokens.
  setting<token_grid> tokens{};
  executor_ref executor{};
};

HEED_END
