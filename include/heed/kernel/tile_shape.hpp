/// Sizes of a tile: how many queries and keys are worked on at a time, and the register blocks inside.
#pragma once

#include <heed/simd/math.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Lanes of a vector are queries. A tile is `groups` vectors of queries times `keys` keys.
template <class T, class A>
struct tile_shape {
  static constexpr int width = lanes<T, A>;
  static constexpr bool many_registers = register_count<A> >= 32;

  /// Vectors of one register block, and rows (keys, or value features) beside that many vectors.
  static constexpr int vectors = many_registers ? 4 : 3;
  static constexpr int rows(int of_vectors) {
    return many_registers ? (of_vectors == 1 ? 16 : 6) : (of_vectors == 1 ? 8 : 4);
  }

  static constexpr int groups = many_registers ? 4 : 6;
  static constexpr int queries = groups * width;
  static constexpr int keys = 128;
  /// Tiles of neighboring queries that may take their turns at each block of keys, so that it comes from far away once.
  static constexpr int tiles = 4;
  /// Keys that share one decision on which groups see them, in tiles that a mask cuts.
  static constexpr int mask_keys = 16;
};

}  // namespace detail
HEED_ARCH_END
