/// How neighborhood attention cuts a grid of tokens into boxes of queries, by shapes alone.
///
/// A vector of lanes is a box of queries; a tile is a stack of such boxes along one axis, and a strip a stack of tiles.
/// The queries of a stack agree on all other axes, so the keys that a tile needs, its region, are rows of keys with the
/// stacked axis slowest, and what one vector needs of them is consecutive.
#pragma once

#include <heed/kernel/tile_shape.hpp>
#include <heed/mod/neighborhood.hpp>

#include <algorithm>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// One axis of a cut grid.
struct neighborhood_side {
  neighborhood_line line;
  index_t pitch = 0;  // tokens between neighbors
  int window = 1;
  int bias_pitch = 0;  // in a table of relative positions
  int box = 1;         // queries of a vector

  int boxes(int size) const noexcept { return (size + box - 1) / box; }
};

/// Grid coordinates: one for each side of a cut.
struct neighborhood_place {
  int at[3];
};

/// A grid of any rank, as three sides of which the first is stacked.
template <class T, class A>
class neighborhood_cut {
 public:
  using shape = tile_shape<T, A>;

  explicit neighborhood_cut(const neighborhood_axes& axes) noexcept {
    const int rank = static_cast<int>(axes.rank());
    neighborhood_side sides[3];
    index_t pitch = 1;
    int bias_pitch = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      sides[axis].line = neighborhood_line(axes[axis]);
      sides[axis].window = axes[axis].window;
      sides[axis].pitch = pitch;
      sides[axis].bias_pitch = bias_pitch;
      pitch *= axes[axis].length;
      bias_pitch *= 2 * axes[axis].window - 1;
    }
    tokens_ = pitch;
    choose_boxes(sides);
    int stacked = 0;
    for (int axis = 1; axis < rank; ++axis)
      if (boxes_of(sides[axis]) > boxes_of(sides[stacked])) stacked = axis;
    side[0] = sides[stacked];
    for (int axis = 0, next = 1; axis < 3; ++axis)
      if (axis != stacked) side[next++] = sides[axis];
    for (int lane = 0; lane < shape::width; ++lane) {
      const int inner = lane % (side[1].box * side[2].box);
      in_box[lane] = {{lane / (side[1].box * side[2].box), inner / side[2].box, inner % side[2].box}};
    }
  }

  index_t tokens() const noexcept { return tokens_; }

  /// Sets of tokens that see each other: one for each residue modulo the dilations.
  index_t groups() const noexcept {
    return index_t(side[0].line.dilation()) * side[1].line.dilation() * side[2].line.dilation();
  }
  neighborhood_place group(index_t number) const noexcept {
    neighborhood_place residues{};
    for (int i = 2; i >= 0; --i) {
      residues.at[i] = static_cast<int>(number % side[i].line.dilation());
      number /= side[i].line.dilation();
    }
    return residues;
  }

  /// Calls f(token) for the tokens of a group.
  template <class F>
  void for_tokens(neighborhood_place group, F f) const {
    const auto step = [&](int i) { return side[i].line.dilation(); };
    for (index_t x = group.at[0]; x < side[0].line.length(); x += step(0))
      for (index_t y = group.at[1]; y < side[1].line.length(); y += step(1))
        for (index_t z = group.at[2]; z < side[2].line.length(); z += step(2))
          f(x * side[0].pitch + y * side[1].pitch + z * side[2].pitch);
  }

  /// Columns of a group, and tiles of a column: of the first group, which is the largest.
  index_t columns() const noexcept { return index_t(boxes_of(side[1])) * boxes_of(side[2]); }
  index_t tiles() const noexcept { return (boxes_of(side[0]) + shape::groups - 1) / shape::groups; }

  /// First coordinates, within a group, of tile `tile` of column `column`. They may lie outside of a smaller group.
  neighborhood_place corner(index_t column, index_t tile) const noexcept {
    const int across = boxes_of(side[2]);
    return {{static_cast<int>(tile) * shape::groups * side[0].box, static_cast<int>(column / across) * side[1].box,
             static_cast<int>(column % across) * side[2].box}};
  }

  /// Tokens from a tile to the next one in its row of tiles, or to the next one at all.
  index_t next_tile() const noexcept {
    const auto distance = [&](int i) { return index_t(side[i].box) * side[i].line.dilation() * side[i].pitch; };
    for (const int i : {2, 1})
      if (boxes_of(side[i]) > 1) return distance(i);
    return shape::groups * distance(0);
  }

  neighborhood_side side[3];
  neighborhood_place in_box[shape::width];  // of the lanes of a vector, from the corner of its box

 private:
  static int boxes_of(const neighborhood_side& s) noexcept { return s.boxes(s.line.size(0)); }

  /// Sizes whose product is a vector, and for which vectors and the keys they need make the fewest pairs.
  static void choose_boxes(neighborhood_side (&sides)[3]) noexcept {
    double least = std::numeric_limits<double>::infinity();
    int best[3] = {shape::width, 1, 1};
    for (int a = 1; a <= shape::width; a *= 2)
      for (int b = 1; a * b <= shape::width; b *= 2) {
        const int boxes[3] = {a, b, shape::width / (a * b)};
        // Some other axis has room for what an axis of one token has not.
        if ((b > 1 && sides[1].line.length() == 1) || (boxes[2] > 1 && sides[2].line.length() == 1)) continue;
        double pairs = 1;
        for (int axis = 0; axis < 3; ++axis) pairs *= keys_needed(sides[axis].line, boxes[axis]);
        if (pairs >= least) continue;
        least = pairs;
        std::copy_n(boxes, 3, best);
      }
    for (int axis = 0; axis < 3; ++axis) sides[axis].box = best[axis];
  }

  /// Of all boxes of one axis together.
  static double keys_needed(const neighborhood_line& line, int box) noexcept {
    const int size = line.size(0);
    double keys = 0;
    for (int i = 0; i < size; i += box)
      keys += line.keys_of(std::min(i + box, size) - 1, size).end - line.keys_of(i, size).begin;
    return keys;
  }

  index_t tokens_;
};

}  // namespace detail
HEED_ARCH_END
