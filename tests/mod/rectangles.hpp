/// Compares what a mask says of pairs, rectangles and ranges with an enumeration of all pairs.
#pragma once

#include <heed/mod/position.hpp>

#include "support/catch.hpp"

#include <algorithm>
#include <functional>
#include <random>

namespace heed_test {

using heed::key_range;
using heed::tile_class;
using visible_fn = std::function<bool(int b, int h, int q, int kv)>;

/// What classify() and keys() promise beyond their contract.
struct promises {
  bool empty = true;  ///< `empty` whenever that is true
  bool full = true;   ///< `full` likewise
  bool hull = true;   ///< keys() is the smallest range
};

struct extent_of_positions {
  int low, high;
};

inline tile_class enumerate(const visible_fn& visible, int b, int h, int q0, int q1, int k0, int k1) {
  int count = 0;
  for (int q = q0; q < q1; ++q)
    for (int kv = k0; kv < k1; ++kv) count += visible(b, h, q, kv);
  if (count == 0) return tile_class::empty;
  return count == (q1 - q0) * (k1 - k0) ? tile_class::full : tile_class::partial;
}

/// The smallest range of keys in [low, high) that the queries see; {0, 0} if none.
inline key_range enumerate_keys(const visible_fn& visible, int b, int h, int q0, int q1, extent_of_positions kv) {
  key_range found{0, 0};
  for (int k = kv.low; k < kv.high; ++k)
    if (enumerate(visible, b, h, q0, q1, k, k + 1) != tile_class::empty) {
      if (found.end == found.begin) found.begin = k;
      found.end = k + 1;
    }
  return found;
}

/// `visible` is the definition, written without the mask. Positions run through [low, high) on both sides, which should
/// reach beyond whatever tables and grids the mask has.
template <class Mask>
void check_mask(const Mask& mask, const visible_fn& visible, extent_of_positions all, promises exact = {},
                int batch = 1, unsigned seed = 1) {
  std::mt19937 random(seed);
  const auto draw = [&random](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };

  for (int b = 0; b < batch; ++b)
    for (int q = all.low; q < all.high; ++q)
      for (int kv = all.low; kv < all.high; ++kv)
        if (static_cast<bool>(mask(heed::position{b, 0, q, kv})) != visible(b, 0, q, kv)) {
          CAPTURE(b, q, kv, visible(b, 0, q, kv));
          FAIL("the mask answers otherwise than its definition");
        }

  int seen[3] = {0, 0, 0};
  for (int round = 0; round < 1500; ++round) {
    const int b = draw(0, batch - 1), longest = round % 3 == 0 ? 2 : round % 3 == 1 ? 7 : 24;
    const int q0 = draw(all.low, all.high - 1), q1 = std::min(q0 + draw(1, longest), all.high);
    const int k0 = draw(all.low, all.high - 1), k1 = std::min(k0 + draw(1, longest), all.high);
    const tile_class truth = enumerate(visible, b, 0, q0, q1, k0, k1),
                     said = heed::detail::classify(mask, b, 0, q0, q1, k0, k1);
    ++seen[static_cast<int>(truth)];
    CAPTURE(b, q0, q1, k0, k1, static_cast<int>(truth), static_cast<int>(said));
    if (said != tile_class::partial && said != truth) FAIL("classify() is wrong");
    if (exact.empty && truth == tile_class::empty && said != truth) FAIL("classify() misses an empty tile");
    if (exact.full && truth == tile_class::full && said != truth) FAIL("classify() misses a full tile");

    // Wider than the positions of the queries, so that their windows end inside.
    const extent_of_positions wide{all.low - 16, all.high + 16};
    const key_range keys = heed::detail::visible_keys(mask, b, 0, q0, q1),
                    hull = enumerate_keys(visible, b, 0, q0, q1, wide);
    CAPTURE(keys.begin, keys.end, hull.begin, hull.end);
    if (hull.begin < hull.end && (keys.begin > hull.begin || keys.end < hull.end)) FAIL("keys() hides a visible key");
    if (exact.hull && hull.begin < hull.end &&
        (std::max(keys.begin, wide.low) != hull.begin || std::min(keys.end, wide.high) != hull.end))
      FAIL("keys() is too wide");
    if (keys.begin > keys.end) FAIL("keys() has a negative extent");
  }
  // A test that never met one of the classes has tested nothing of it.
  CHECK(seen[static_cast<int>(tile_class::empty)] > 0);
  CHECK(seen[static_cast<int>(tile_class::partial)] + seen[static_cast<int>(tile_class::full)] > 0);
}

}  // namespace heed_test
