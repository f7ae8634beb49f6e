/// Options of window attention and of its gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/token_grid.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// Where the windows of a grid that they do not fill find keys.
enum class swin_padding {
  mask,   ///< among the tokens of the grid alone
  attend  ///< also in the places that are missing, where k_pad and v_pad stand
};

/// By how many tokens windows start below and to the right of the grid's corner.
struct window_shift {
  index_t y = 0;
  index_t x = 0;
};

/// Options of swin_forward. T: element type of the tensors. An aggregate: name what you need, in this order.
///
///     heed::swin_forward(q, k, v, out, {.tokens = heed::token_grid{56, 56}, .shift = {3, 3}, .table = table});
template <class T>
struct swin_options {
  using accumulator = accumulator_t<T>;

  /// How the N tokens form a grid. Default: a line.
  setting<token_grid> tokens{};
  /// Tokens of a window, at least 1 x 1. Along an axis where the grid is no longer than that there is one window, the
  /// whole axis.
  token_grid window{7, 7};
  /// 0 to the window's size - 1. Along an axis of one window it does nothing.
  window_shift shift{};
  /// Factor of q k^T. Default D^-1/2. Any finite value.
  setting<double> scale{};
  /// [(2 window.height - 1)(2 window.width - 1),H]: what is added to the score of a query and a key that is dy below
  /// and dx to the right of it, in row (window.height - 1 - dy)(2 window.width - 1) + window.width - 1 - dx. Any
  /// strides.
  view<const T, 2> table{};
  swin_padding padding = swin_padding::mask;
  /// [G,D] and [G,E]: the key and the value of missing places under swin_padding::attend, and only there.
  view<const T, 2> k_pad{};
  view<const T, 2> v_pad{};
  /// Output [B,H,N]: log-sum-exp of the scores of each query, natural log. For swin_backward.
  view<accumulator, 3> lse{};
  /// Memory for the call; swin_forward_scratch_bytes tells how much. Default: memory that the calling thread keeps
  /// (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

/// Options of swin_backward. What forward was told must be told again: fields that are named as in swin_options mean
/// the same.
template <class T>
struct swin_backward_options {
  using accumulator = accumulator_t<T>;

  setting<token_grid> tokens{};
  token_grid window{7, 7};
  window_shift shift{};
  setting<double> scale{};
  view<const T, 2> table{};
  /// Output, as the table: gradient by it. 0 where no window has such a pair.
  view<T, 2> dtable{};
  swin_padding padding = swin_padding::mask;
  view<const T, 2> k_pad{};
  view<const T, 2> v_pad{};
  /// Outputs, as k_pad and v_pad: gradients by them, sums over all missing places.
  view<T, 2> dk_pad{};
  view<T, 2> dv_pad{};
  /// Memory for the call; swin_backward_scratch_bytes tells how much.
  scratch_view scratch{};
  executor_ref executor{};
};

HEED_END
