/// Rows of a tile of a grid, between tensors and the memory of a worker.
#pragma once

#include <heed/kernel/key_block.hpp>
#include <heed/kernel/neighborhood_tile.hpp>

#include <algorithm>
#include <cstring>

HEED_ARCH_BEGIN
namespace detail {

/// Keys and values of a call and its table of relative positions; all of it checked.
template <class S>
struct neighborhood_keys {
  view<const S, 4> k;        // [B,G,N,D]
  view<const S, 4> v;        // [B,G,N,E]
  view<const S, 4> k_extra;  // [B,G,M2,D] or empty
  view<const S, 4> v_extra;  // [B,G,M2,E]
  view<const S, 2> bias;     // [H,R] or empty

  index_t features() const noexcept { return k.extent(3); }
  index_t value_features() const noexcept { return v.extent(3); }
};

/// Copies a row as vectors: rows are short, and calls of memcpy would cost more than they do.
template <class S>
HEED_INLINE void copy_row(const S* from, S* to, index_t features) noexcept {
  typedef unsigned char piece __attribute__((vector_size(32), aligned(1), may_alias));
  constexpr index_t some = 32 / index_t(sizeof(S));
  index_t i = 0;
  for (; i + some <= features; i += some) *reinterpret_cast<piece*>(to + i) = *reinterpret_cast<const piece*>(from + i);
  for (; i < features; ++i) to[i] = from[i];
}

/// rows[lane]: the row of the lane's query.
template <class T, class A, class S>
void list_rows(const neighborhood_tile<T, A>& tile, const view<S, 2>& tensor, S** rows) noexcept {
  for (int lane = 0; lane < tile.lanes(); ++lane) rows[lane] = &tensor(tile.token(lane), 0);
}

/// The same, but `idle` for lanes that are repetitions.
template <class T, class A, class S>
void list_rows(const neighborhood_tile<T, A>& tile, const view<S, 2>& tensor, S* idle, S** rows) noexcept {
  for (int lane = 0; lane < tile.lanes(); ++lane) rows[lane] = tile.live(lane) ? &tensor(tile.token(lane), 0) : idle;
}

/// Calls rows `apart` tokens from those of the tile's queries into the first-level cache, to be read (0) or written (1).
template <int Write, class T, class A, class S>
void call_rows(const neighborhood_tile<T, A>& tile, const view<S, 2>& tensor, index_t apart) noexcept {
  for (int lane = 0; lane < tile.lanes(); ++lane)
    prefetch_row<Write>(&tensor(std::min(tile.token(lane) + apart, tensor.extent(0) - 1), 0), tensor.extent(1));
}

/// to[lane] = the row of the lane's query
template <class T, class A, class S>
void gather_rows(const neighborhood_tile<T, A>& tile, const view<const S, 2>& rows, S* to) noexcept {
  const index_t features = rows.extent(1);
  for (int lane = 0; lane < tile.lanes(); ++lane) prefetch_row<0>(&rows(tile.token(lane), 0), features);
  for (int lane = 0; lane < tile.lanes(); ++lane) copy_row(&rows(tile.token(lane), 0), to + lane * features, features);
}

/// The reverse, for lanes that are not repetitions.
template <class T, class A, class S>
void scatter_rows(const neighborhood_tile<T, A>& tile, const S* from, const view<S, 2>& rows) noexcept {
  const index_t features = rows.extent(1);
  for (int lane = 0; lane < tile.lanes(); ++lane)
    if (tile.live(lane)) copy_row(from + lane * features, &rows(tile.token(lane), 0), features);
}

/// Calls use(source) for the keys of a block: at one distance from each other, or wherever each is.
template <class T, class A, class S, class Use>
void with_rows_of_block(const neighborhood_tile<T, A>& tile, const neighborhood_block<T, A>& block,
                        const view<const S, 2>& k, const view<const S, 2>& v, const Use& use) noexcept {
  if (tile.in_line())
    return use(dense_source<S>{&k(block.token[0], 0), &v(block.token[0], 0), k.stride(0) * tile.distance(),
                               v.stride(0) * tile.distance(), block.count});
  const S *keys[tile_shape<T, A>::keys], *values[tile_shape<T, A>::keys];
  for (int j = 0; j < block.count; ++j) keys[j] = &k(block.token[j], 0), values[j] = &v(block.token[j], 0);
  use(pointed_source<S>{keys, values, block.count});
}

/// Calls use(source, first) for blocks of the keys that every query sees.
template <class T, class A, class S, class Use>
void for_blocks_of_extra(const view<const S, 2>& k, const view<const S, 2>& v, const Use& use) noexcept {
  constexpr index_t most = tile_shape<T, A>::keys;
  for (index_t first = 0; first < k.extent(0); first += most)
    use(dense_source<S>{&k(first, 0), &v(first, 0), k.stride(0), v.stride(0),
                        std::min<index_t>(most, k.extent(0) - first)},
        first);
}

/// Numbers of the entries of a table of relative positions, which are differences of one number a key and one a lane.
template <class T, class A>
class neighborhood_entries {
 public:
  using shape = tile_shape<T, A>;

  /// Not `wanted`: there is no table.
  neighborhood_entries(const neighborhood_cut<T, A>& cut, const neighborhood_tile<T, A>& tile, bool wanted) noexcept
      : cut_(cut) {
    if (!wanted) return;
    for (int lane = 0; lane < tile.lanes(); ++lane) {
      of_lane_[lane] = 0;
      for (int i = 0; i < 3; ++i)
        of_lane_[lane] += (tile.query(i, lane) - tile.origin(i) - (cut.side[i].window - 1)) * cut.side[i].bias_pitch;
    }
  }

  int of_key(const neighborhood_block<T, A>& block, int j) const noexcept {
    int sum = 0;
    for (int i = 0; i < 3; ++i) sum += block.coordinate[i][j] * cut_.side[i].bias_pitch;
    return sum;
  }
  int of_lane(int lane) const noexcept { return of_lane_[lane]; }

 private:
  const neighborhood_cut<T, A>& cut_;
  int of_lane_[shape::queries];
};

/// to[key][lane] = the table's entry, for the keys of a block that the lane's vector needs. Pairs that do not see each
/// other may get any entry.
template <class T, class A>
void expand_bias(const neighborhood_entries<T, A>& entries, const neighborhood_tile<T, A>& tile,
                 const neighborhood_block<T, A>& block, const T* table, int size, T* to) noexcept {
  using shape = tile_shape<T, A>;
  for (int v = 0; v < tile.vectors(); ++v) {
    const int begin = std::max(tile.seen(v).begin - block.first, 0);
    const int end = std::min(tile.seen(v).end - block.first, block.count);
    for (int j = begin; j < end; ++j) {
      const int key = entries.of_key(block, j);
      for (int lane = v * shape::width; lane < (v + 1) * shape::width; ++lane)
        to[j * shape::queries + lane] = table[std::clamp(key - entries.of_lane(lane), 0, size - 1)];
    }
  }
}

/// A head's row of the table as numbers.
template <class T, class A, class S>
void load_table(const view<const S, 2>& bias, index_t head, T* to) noexcept {
  if (bias) convert_row<T, A>(&bias(head, 0), to, bias.extent(1));
}

}  // namespace detail
HEED_ARCH_END
