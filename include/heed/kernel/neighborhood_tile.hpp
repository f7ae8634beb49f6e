/// One tile of queries of a grid, the region of keys that they need, and which lane sees which of them.
#pragma once

#include <heed/kernel/mask_runs.hpp>
#include <heed/kernel/neighborhood_cut.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// A block of keys of a region: coordinates in the region, and tokens.
template <class T, class A>
struct neighborhood_block {
  using shape = tile_shape<T, A>;
  int first, count;
  int coordinate[3][shape::keys];
  index_t token[shape::keys];
};

/// Coordinates count within one group of tokens. Lanes beyond the grid repeat its last queries, so that all lanes of a
/// vector hold numbers of some query; `live` tells them apart.
template <class T, class A>
class neighborhood_tile {
 public:
  using shape = tile_shape<T, A>;
  static constexpr int width = shape::width;

  /// A tile that begins outside of its group has no vectors.
  neighborhood_tile(const neighborhood_cut<T, A>& cut, neighborhood_place group, neighborhood_place corner) noexcept
      : cut_(&cut), group_(group) {
    int sizes[3];
    for (int i = 0; i < 3; ++i) {
      sizes[i] = cut.side[i].line.size(group.at[i]);
      if (corner.at[i] >= sizes[i]) return;
    }
    vectors_ = std::min(shape::groups, cut.side[0].boxes(sizes[0] - corner.at[0]));
    span lines[3][shape::queries];
    const int lengths[3] = {vectors_ * cut.side[0].box, cut.side[1].box, cut.side[2].box};
    for (int i = 0; i < 3; ++i) {
      for (int x = 0; x < lengths[i]; ++x)
        lines[i][x] = cut.side[i].line.keys_of(std::min(corner.at[i] + x, sizes[i] - 1), sizes[i]);
      origin_[i] = lines[i][0].begin;
      extent_[i] = lines[i][lengths[i] - 1].end - origin_[i];
    }
    for (int v = 0; v < vectors_; ++v)
      for (int i = 0, lane = v * width; i < width; ++i, ++lane) {
        const neighborhood_place& in_box = cut.in_box[i];
        const int within[3] = {v * cut.side[0].box + in_box.at[0], in_box.at[1], in_box.at[2]};
        live_[lane] = true;
        token_[lane] = 0;
        for (int axis = 0; axis < 3; ++axis) {
          const int at = corner.at[axis] + within[axis];
          live_[lane] = live_[lane] && at < sizes[axis];
          query_[axis][lane] = std::min(at, sizes[axis] - 1);
          token_[lane] += token_of(axis, query_[axis][lane]);
          begin_[axis][lane] = lines[axis][within[axis]].begin - origin_[axis];
          end_[axis][lane] = lines[axis][within[axis]].end - origin_[axis];
        }
      }
    bool row_is_full = true;
    for (int i = 1; i < 3; ++i)
      row_is_full =
          row_is_full && lines[i][lengths[i] - 1].begin == origin_[i] && lines[i][0].end == origin_[i] + extent_[i];
    for (int v = 0; v < vectors_; ++v) {
      const span first = lines[0][v * cut.side[0].box], last = lines[0][(v + 1) * cut.side[0].box - 1];
      seen_[v] = {(first.begin - origin_[0]) * row(), (last.end - origin_[0]) * row()};
      full_[v] = seen_[v];
      if (row_is_full)
        full_[v] = {(last.begin - origin_[0]) * row(), (first.end - origin_[0]) * row()};
      else
        full_[v].end = full_[v].begin;
    }
  }

  int vectors() const noexcept { return vectors_; }
  int lanes() const noexcept { return vectors_ * width; }
  index_t token(int lane) const noexcept { return token_[lane]; }
  bool live(int lane) const noexcept { return live_[lane]; }
  int query(int axis, int lane) const noexcept { return static_cast<int>(query_[axis][lane]); }
  int origin(int axis) const noexcept { return origin_[axis]; }

  /// Keys of the region.
  int keys() const noexcept { return extent_[0] * row(); }

  /// Those of them that a vector needs.
  neighborhood_line::span seen(int vector) const noexcept { return seen_[vector]; }

  /// Whether the keys of the region are at one distance from each other, and then at which.
  bool in_line() const noexcept { return row() == 1; }
  index_t last_key() const noexcept { return token_of(0, origin_[0] + extent_[0] - 1); }
  index_t distance() const noexcept { return cut_->side[0].line.dilation() * cut_->side[0].pitch; }

  void load_block(int first, neighborhood_block<T, A>& block) const noexcept {
    block.first = first;
    block.count = std::min(shape::keys, keys() - first);
    // Rows of keys along the last axis that has any.
    const int inner = extent_[2] > 1 ? 2 : extent_[1] > 1 ? 1 : 0;
    int at[3] = {first / row(), first / extent_[2] % extent_[1], first % extent_[2]};
    const index_t step = cut_->side[inner].line.dilation() * cut_->side[inner].pitch;
    for (int j = 0; j < block.count;) {
      const int some = std::min(block.count - j, extent_[inner] - at[inner]);
      const index_t token =
          token_of(0, origin_[0] + at[0]) + token_of(1, origin_[1] + at[1]) + token_of(2, origin_[2] + at[2]);
      for (int i = 0; i < some; ++i) block.token[j + i] = token + i * step;
      for (int axis = 0; axis < 3; ++axis) std::fill_n(block.coordinate[axis] + j, some, at[axis]);
      for (int i = 0; i < some; ++i) block.coordinate[inner][j + i] += i;
      j += some;
      // The row after this one.
      at[inner] = 0;
      if (inner == 2 && ++at[1] == extent_[1]) at[1] = 0;
      if (inner > 0 && (inner == 1 || at[1] == 0)) ++at[0];
    }
  }

  /// As split_by_mask. What all vectors of a register block need, some of it unmasked, is one run of them; the rest of
  /// what each needs, runs of its own.
  int split(const neighborhood_block<T, A>& block, tile_run* runs) const noexcept {
    const span all = {block.first, block.first + block.count};
    int used = 0;
    const auto add = [&](span part, span full, int low, int high) {
      if (part.begin >= part.end) return;
      unsigned masked = 0, open = 0;
      for (int j = part.begin; j < part.end;) {
        const int piece = (j - all.begin) / shape::mask_keys;
        const int end = std::min(part.end, all.begin + (piece + 1) * shape::mask_keys);
        (full.begin <= j && end <= full.end ? open : masked) |= 1u << piece;
        j = end;
      }
      runs[used++] = {{part.begin - all.begin, part.end - part.begin, low, high},
                      open == 0 ? tile_run::everywhere : masked};
    };
    for (int low = 0; low < vectors_; low += shape::vectors) {
      const int high = std::min(low + shape::vectors, vectors_);
      span common = all, full = all;
      for (int v = low; v < high; ++v) {
        common = overlap(common, seen_[v]);
        full = overlap(full, full_[v]);
      }
      if (high - low == shape::vectors && full.begin < full.end)
        add(common, full, low, high);
      else
        common = {all.end, all.end};
      for (int v = low; v < high; ++v) {
        add(overlap({all.begin, common.begin}, seen_[v]), full_[v], v, v + 1);
        add(overlap({common.end, all.end}, seen_[v]), full_[v], v, v + 1);
      }
    }
    return used;
  }

  /// Which lanes of a vector see key `j` of a block.
  HEED_INLINE mask_pack<T, A> lanes_that_see(const neighborhood_block<T, A>& block, int j, int vector) const noexcept {
    using I = index_pack<T, A>;
    const auto on_axis = [&](int i) {
      const I at(block.coordinate[i][j]);
      return (at >= I::load(begin_[i] + vector * width)) & (at < I::load(end_[i] + vector * width));
    };
    mask_pack<T, A> seen = on_axis(0);
    if (extent_[1] > 1) seen = seen & on_axis(1);
    if (extent_[2] > 1) seen = seen & on_axis(2);
    return seen;
  }

 private:
  using span = neighborhood_line::span;

  static span overlap(span a, span b) noexcept { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

  int row() const noexcept { return extent_[1] * extent_[2]; }
  index_t token_of(int axis, index_t coordinate) const noexcept {
    const neighborhood_side& side = cut_->side[axis];
    return (coordinate * side.line.dilation() + group_.at[axis]) * side.pitch;
  }

  const neighborhood_cut<T, A>* cut_;
  neighborhood_place group_;
  int vectors_ = 0;
  int origin_[3] = {}, extent_[3] = {};
  span seen_[shape::groups], full_[shape::groups];                               // numbers of keys of the region
  alignas(64) lane_int_t<T> begin_[3][shape::queries], end_[3][shape::queries];  // coordinates in the region
  lane_int_t<T> query_[3][shape::queries];
  index_t token_[shape::queries];
  bool live_[shape::queries];
};

/// The tile as a mask of a block of its region, with key numbers for positions.
template <class T, class A>
struct neighborhood_view {
  const neighborhood_tile<T, A>& tile;
  const neighborhood_block<T, A>& block;

  int split(tile_place, int, int, tile_run* runs) const noexcept { return tile.split(block, runs); }
  HEED_INLINE mask_pack<T, A> lanes_that_see(int kv, int vector) const noexcept {
    return tile.lanes_that_see(block, kv, vector);
  }
};

}  // namespace detail
HEED_ARCH_END
