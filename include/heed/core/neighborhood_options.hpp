/// Options of neighborhood attention and of its gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Options of neighborhood_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::neighborhood_forward(q, k, v, out, {{.length = 64, .window = 7}, {.length = 64, .window = 7}},
///                                {.lse = lse, .bias = table});
template <class T>
struct neighborhood_options {
  using accumulator = accumulator_t<T>;

  /// Factor of q k^T. Default D^-1/2. Any finite value.
  setting<double> scale{};
  /// c > 0: scores become c tanh(s / c) before the bias. 0: off.
  double softcap = 0;
  /// Output [B,H,N]: natural log of the denominator.
  view<accumulator, 3> lse{};
  /// [H,R], R the product of 2 window - 1 over the axes: added to the scores after the softcap, by relative position.
  /// The entry of query i and key j is row-major in (key coordinate - query coordinate) / dilation + window - 1 of each
  /// axis, the last one fastest. For axes of stride 1 that are not causal.
  view<const T, 2> bias{};
  /// [B,G,M2,D] and [B,G,M2,E]: keys and values that every query sees besides, in the same softmax, without a bias.
  view<const T, 4> k_extra{};
  view<const T, 4> v_extra{};
  /// Memory for the call; neighborhood_forward_scratch_bytes tells how much. Default: memory that the calling thread
  /// keeps (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of neighborhood_backward. What forward was told must be told again: fields that are named as in
/// neighborhood_options mean the same. An aggregate: name what you need, in this order.
template <class T>
struct neighborhood_backward_options {
  using accumulator = accumulator_t<T>;

  setting<double> scale{};
  double softcap = 0;
  /// [B,H,N]: gradient of the loss by lse. Default: lse is no part of the loss.
  view<const accumulator, 3> dlse{};
  view<const T, 2> bias{};
  /// Output [H,R]: gradient by the bias.
  view<T, 2> dbias{};
  view<const T, 4> k_extra{};
  view<const T, 4> v_extra{};
  /// Outputs: gradients by k_extra and v_extra, to be given where these are.
  view<T, 4> dk_extra{};
  view<T, 4> dv_extra{};
  /// Memory for the call; neighborhood_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
