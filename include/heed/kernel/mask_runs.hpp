/// Which keys of a block the queries of a tile see: the parts that are worth computing, and what of them is masked.
#pragma once

#include <heed/kernel/score.hpp>
#include <heed/kernel/tile_shape.hpp>
#include <heed/mod/position.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Keys that some vectors of queries see: a part of the block, and which of its pieces of `mask_keys` keys are masked.
struct tile_run {
  tile_part part;
  unsigned masked;

  static constexpr unsigned everywhere = ~0u;
  /// Whether the answer is the same for all of its keys.
  bool uniform() const noexcept { return masked == 0 || masked == everywhere; }
};

template <class T, class A>
inline constexpr int mask_pieces = tile_shape<T, A>::keys / tile_shape<T, A>::mask_keys;
template <class T, class A>
inline constexpr int most_runs = mask_pieces<T, A> * tile_shape<T, A>::groups;

/// Cuts a block of `keys` keys along the mask, for the `queries` queries of a tile at `place`, and returns the number
/// of runs. Pieces that every query sees whole form runs of all vectors; elsewhere each vector has runs of its own.
/// Not `partial`: the mask hides no pair, so there is one run. A mask that knows the lanes of the tile cuts the block
/// itself.
template <class T, class A, class Mask>
int split_by_mask(const Mask& mask, tile_place place, int queries, int keys, bool partial, tile_run* runs) {
  using shape = tile_shape<T, A>;
  constexpr int width = shape::width, pieces = mask_pieces<T, A>;
  const int groups = (queries + width - 1) / width;
  if (!partial) {
    runs[0] = {{0, keys, 0, groups}, 0};
    return 1;
  }
  if constexpr (requires { mask.split(place, groups, keys, runs); }) return mask.split(place, groups, keys, runs);
  unsigned seen[shape::groups] = {}, masked[shape::groups] = {};
  unsigned whole = ~0u;
  for (int g = 0; g < groups; ++g) {
    const int q0 = place.query + g * width;
    for (int j = 0, piece = 0; j < keys; j += shape::mask_keys, ++piece) {
      const tile_class c = classify(mask, place.b, place.h, q0, q0 + std::min(width, queries - g * width),
                                    place.key + j, place.key + std::min(keys, j + shape::mask_keys));
      if (c != tile_class::empty) seen[g] |= 1u << piece;
      if (c == tile_class::partial) masked[g] |= 1u << piece;
    }
    whole &= seen[g] & ~masked[g];
  }
  int used = 0;
  const auto add_runs = [&](unsigned which, unsigned hidden, int low, int high) {
    for (int piece = 0; piece < pieces;) {
      if ((which >> piece & 1u) == 0) {
        ++piece;
        continue;
      }
      const int begin = piece * shape::mask_keys;
      while (piece < pieces && (which >> piece & 1u) != 0) ++piece;
      runs[used++] = {{begin, std::min(piece * shape::mask_keys, keys) - begin, low, high}, hidden};
    }
  };
  add_runs(whole & ((1u << (keys + shape::mask_keys - 1) / shape::mask_keys) - 1u), 0, 0, groups);
  for (int g = 0; g < groups; ++g) add_runs(seen[g] & ~whole, masked[g], g, g + 1);
  return used;
}

}  // namespace detail
HEED_ARCH_END
