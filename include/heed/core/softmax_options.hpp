/// Options shared by the operators of the softmax family.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of softmax_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::softmax_forward(q, k, v, out, {.scale = 0.1, .lse = lse, .window_left = 255}, heed::causal{});
template <class T>
struct softmax_options {
  using accumulator = accumulator_t<T>;

  /// Factor of q k^T. Default D^-1/2. Any finite value.
  setting<double> scale{};
  /// c > 0: scores become c tanh(s / c) before bias and mods. 0: off.
  double softcap = 0;
  /// [B,H,N,M], added to the scores after the softcap; axes of extent 1 broadcast; -inf excludes a pair.
  view<const T, 4> bias{};
  /// [H]: one more logit per head, neither scaled nor capped, that joins the denominator and has no value. -inf: none.
  view<const accumulator, 1> sink{};
  /// Output [B,H,N]: natural log of the denominator, sink included; -inf where nothing is visible.
  view<accumulator, 3> lse{};
  /// Keys j with p - window_left <= j <= p + window_right around the query's position p are visible. -1: unbounded.
  index_t window_left = -1;
  index_t window_right = -1;
  /// Position of query 0. Default M - N: the last query stands at the last key. In a packed batch, per sequence.
  setting<index_t> q_offset{};
  /// Position of key 0.
  index_t kv_offset = 0;
  /// [S+1] each: sequence s of a packed batch (B = 1) owns query rows [cu_seqlens_q[s], cu_seqlens_q[s+1]), keys
  /// likewise.
  sequence_offsets cu_seqlens_q{};
  sequence_offsets cu_seqlens_k{};
  /// Memory for the call; softmax_forward_scratch_bytes tells how much. Default: memory that
  /// the calling thread keeps (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

HEED_END
