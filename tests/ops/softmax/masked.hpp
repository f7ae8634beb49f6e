/// softmax_forward under a mask, against the definition with the mask's answer for one pair at a time.
#pragma once

#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"

#include <utility>

namespace softmax_test {

/// Queries and keys of equal and of different numbers, below, at and above the sizes of a tile.
inline constexpr std::pair<index_t, index_t> mask_lengths[] = {{40, 40}, {1, 90}, {130, 131}, {33, 200}, {150, 60}};

template <class Mask, class S = float>
void check_mask(const Mask& mask, index_t batch = 1) {
  for (const auto& [N, M] : mask_lengths) {
    problem<S> p({batch, 2, 1, N, M, 8, 12});
    CAPTURE(N, M);
    CHECK(error_of<S>(p, {}, 1, mask) <= 1);
  }
}

/// The same together with a window and offsets of the call.
template <class Mask, class S = float>
void check_mask_in_window(const Mask& mask, index_t batch = 1) {
  for (const auto& [N, M] : mask_lengths) {
    problem<S> p({batch, 2, 1, N, M, 8, 12});
    CAPTURE(N, M);
    CHECK(error_of<S>(p, {.window_left = 25, .window_right = 3, .q_offset = 4, .kv_offset = -9}, 1, mask) <= 1);
  }
}

}  // namespace softmax_test
