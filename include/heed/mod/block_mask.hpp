/// Block masks: which tiles of a mask are empty, full or partial, worked out once and looked up in every call after.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/tensor.hpp>
#include <heed/mod/compose.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>

HEED_ARCH_BEGIN

/// A tile of a block_map that is not empty.
struct block_entry {
  std::int32_t column;  ///< number of the tile in its row
  bool full;            ///< all of its pairs are visible
};

/// The entries of one row, columns ascending.
struct block_row {
  const block_entry* first;
  const block_entry* last;

  const block_entry* begin() const noexcept { return first; }
  const block_entry* end() const noexcept { return last; }
  index_t size() const noexcept { return last - first; }
  const block_entry& operator[](index_t i) const noexcept { return first[i]; }
};

/// How a block_map cuts N queries and M keys. Tile t of the queries is [t * block_q, (t + 1) * block_q), the last one
/// may be short; keys likewise.
struct block_options {
  int block_q = 64;
  int block_kv = 64;
  index_t batch = 1;               ///< 1: the mask does not depend on the batch entry
  index_t heads = 1;               ///< 1: nor on the head
  setting<index_t> q_offset = {};  ///< as in the operators: default M - N
  index_t kv_offset = 0;
};

/// The tiles of a mask that are not empty, by rows: for each batch entry (or one for all), head (or one for all) and
/// tile of queries the tiles of keys, each with a flag that says whether it is full. Ragged tiles are judged on the
/// pairs they have.
/// Cost: 8 bytes a tile that is not empty, and 8 a row. Building allocates, nothing else does.
/// The builders throw heed::invalid_argument: N or M < 0, a block, batch or heads < 1, positions that leave int.
class block_map {
 public:
  block_map() noexcept = default;

  /// From classify(), where keys() leaves anything to ask. O(tiles). Masks without classify() give partial tiles.
  template <mask_callable M>
  static block_map from_classes(const M& mask, index_t queries, index_t keys, const block_options& options = {}) {
    return build(queries, keys, options, [&mask](int b, int h, rectangle r, const auto& add) {
      const key_range hull = detail::visible_keys(mask, b, h, r.q0, r.q1);
      add(hull, [&](int k0, int k1) { return detail::classify(mask, b, h, r.q0, r.q1, k0, k1); });
    });
  }

  /// From keys() alone, for masks whose keys are intervals: only the tiles that are not empty cost time.
  template <interval_mask M>
  static block_map from_intervals(const M& mask, index_t queries, index_t keys, const block_options& options = {}) {
    return build(queries, keys, options, [&mask](int b, int h, rectangle r, const auto& add) {
      const key_range first = mask.keys(b, h, r.q0, r.q0 + 1), last = mask.keys(b, h, r.q1 - 1, r.q1);
      add({first.begin, last.end},
          [&](int k0, int k1) { return detail::class_of(false, last.begin <= k0 && k1 <= first.end); });
    });
  }

  /// From the answers for all pairs: O(N * M), for masks that say nothing about tiles. Exact.
  template <mask_callable M>
  static block_map from_pairs(const M& mask, index_t queries, index_t keys, const block_options& options = {}) {
    return build(queries, keys, options, [&mask](int b, int h, rectangle r, const auto& add) {
      add({}, [&](int k0, int k1) {
        bool some = false, all = true;
        for (int q = r.q0; q < r.q1; ++q)
          for (int kv = k0; kv < k1; ++kv) {
            const bool visible = mask(position{b, h, q, kv});
            some |= visible;
            all &= visible;
          }
        return detail::class_of(!some, all);
      });
    });
  }

  /// The same tiles by columns: rows of the result are tiles of keys, its columns tiles of queries.
  block_map transpose() const {
    block_map other;
    other.queries_ = keys_;
    other.keys_ = queries_;
    other.q_offset_ = kv_offset_;
    other.kv_offset_ = q_offset_;
    other.block_q_ = block_kv_;
    other.block_kv_ = block_q_;
    other.batch_ = batch_;
    other.heads_ = heads_;
    const index_t maps = batch_ * heads_, n = rows(), m = columns();
    other.starts_ = tensor<index_t, 1>({maps * m + 1});
    other.entries_ = tensor<block_entry, 1>({entries()});
    index_t* const starts = other.starts_.data();
    for (index_t map = 0; map < maps; ++map) {
      // Count into the slot after, sum up, then let each start walk forward while its row fills: it ends where the next
      // begins.
      index_t* const column = starts + map * m;
      for (index_t i = map * n; i < (map + 1) * n; ++i)
        for (const block_entry& e : stored_row(i)) ++column[e.column + 1];
      for (index_t j = 0; j < m; ++j) column[j + 1] += column[j];
      for (index_t i = 0; i < n; ++i)
        for (const block_entry& e : stored_row(map * n + i))
          other.entries_(column[e.column]++) = {static_cast<std::int32_t>(i), e.full};
      for (index_t j = m; j > 0; --j) column[j] = column[j - 1];
      column[0] = stored_start(map * n);
    }
    return other;
  }

  /// The tiles of a row that are not empty. b, h: any number where the map is shared.
  block_row row(index_t b, index_t h, index_t tile) const noexcept {
    return stored_row(((batch_ == 1 ? 0 : b) * heads_ + (heads_ == 1 ? 0 : h)) * rows() + tile);
  }

  index_t rows() const noexcept { return tiles(queries_, block_q_); }
  index_t columns() const noexcept { return tiles(keys_, block_kv_); }
  index_t entries() const noexcept { return entries_.size(); }
  index_t batch() const noexcept { return batch_; }
  index_t heads() const noexcept { return heads_; }
  index_t queries() const noexcept { return queries_; }
  index_t keys() const noexcept { return keys_; }
  index_t q_offset() const noexcept { return q_offset_; }
  index_t kv_offset() const noexcept { return kv_offset_; }
  int block_q() const noexcept { return block_q_; }
  int block_kv() const noexcept { return block_kv_; }

 private:
  struct rectangle {
    int q0, q1;
  };

  static index_t tiles(index_t extent, index_t block) noexcept { return (extent + block - 1) / block; }

  index_t stored_start(index_t i) const noexcept { return starts_.size() > 0 ? starts_(i) : 0; }
  block_row stored_row(index_t i) const noexcept {
    return {entries_.data() + starts_(i), entries_.data() + starts_(i + 1)};
  }

  /// each_row(b, h, rectangle, add) calls add(range of keys, class of a tile) once.
  template <class EachRow>
  static block_map build(index_t queries, index_t keys, const block_options& options, const EachRow& each_row) {
    block_map map(queries, keys, options);
    map.starts_ = tensor<index_t, 1>({map.batch_ * map.heads_ * map.rows() + 1});
    index_t count = 0, row = 0;
    for (index_t b = 0; b < map.batch_; ++b)
      for (index_t h = 0; h < map.heads_; ++h)
        for (index_t i = 0; i < map.rows(); ++i) {
          const index_t end = min((i + 1) * map.block_q_, queries);
          const rectangle r = {static_cast<int>(i * map.block_q_ + map.q_offset_),
                               static_cast<int>(end + map.q_offset_)};
          each_row(static_cast<int>(b), static_cast<int>(h), r,
                   [&](key_range hull, const auto& classify) { count = map.add_tiles(count, hull, classify); });
          map.starts_(++row) = count;
        }
    map.resize(count, count);
    return map;
  }

  block_map(index_t queries, index_t keys, const block_options& options)
      : queries_(queries),
        keys_(keys),
        q_offset_(options.q_offset.or_default(keys - queries)),
        kv_offset_(options.kv_offset),
        batch_(options.batch),
        heads_(options.heads),
        block_q_(options.block_q),
        block_kv_(options.block_kv) {
    const detail::checker check("block_map");
    check.require(queries >= 0, "queries", "at least 0", queries);
    check.require(keys >= 0, "keys", "at least 0", keys);
    check.require(block_q_ >= 1, "block_q", "at least 1", block_q_);
    check.require(block_kv_ >= 1, "block_kv", "at least 1", block_kv_);
    check.require(batch_ >= 1, "batch", "at least 1", batch_);
    check.require(heads_ >= 1, "heads", "at least 1", heads_);
    check.require(q_offset_ >= INT_MIN && q_offset_ <= INT_MAX - queries, "q_offset", "positions that fit int",
                  q_offset_);
    check.require(kv_offset_ >= INT_MIN && kv_offset_ <= INT_MAX - keys, "kv_offset", "positions that fit int",
                  kv_offset_);
  }

  template <class Classify>
  index_t add_tiles(index_t count, key_range hull, const Classify& classify) {
    const index_t begin = max(hull.begin - kv_offset_, index_t(0)), end = min(hull.end - kv_offset_, keys_);
    for (index_t j = begin / block_kv_; j * block_kv_ < end; ++j) {
      const index_t k0 = j * block_kv_, k1 = min(k0 + block_kv_, keys_);
      const tile_class tile = classify(static_cast<int>(k0 + kv_offset_), static_cast<int>(k1 + kv_offset_));
      if (tile == tile_class::empty) continue;
      if (count == entries_.size()) resize(2 * count + 64, count);
      entries_(count++) = {static_cast<std::int32_t>(j), tile == tile_class::full};
    }
    return count;
  }

  void resize(index_t size, index_t used) {
    tensor<block_entry, 1> larger({size});
    for (index_t i = 0; i < used; ++i) larger(i) = entries_(i);
    entries_ = std::move(larger);
  }

  tensor<index_t, 1> starts_;  // [batch * heads * rows + 1]
  tensor<block_entry, 1> entries_;
  index_t queries_ = 0, keys_ = 0, q_offset_ = 0, kv_offset_ = 0, batch_ = 1, heads_ = 1;
  int block_q_ = 1, block_kv_ = 1;
};

/// A mask whose tiles are looked up.   visible = mask(at); the map answers for rectangles.
///
///     heed::block_mask plan(heed::causal{} & heed::document{ids}, N, M);      // once
///     heed::softmax_forward(q, k, v, out, {}, plan);                          // every layer, every step
///
/// classify() covers a rectangle with tiles of the map: exact for tiles of the map and what divides them, as far as the
/// map is. keys() is the hull of the tiles of the rows. Beyond the positions that the map was built for, the mask
/// itself answers, so a plan for fewer keys than there are loses time and nothing else. (There are no keys below min(0,
/// kv_offset).)
/// Copies copy the map.
template <mask_callable Mask>
class block_mask : public mask_base {
 public:
  /// With a map from classify() and keys() of the mask.
  block_mask(Mask mask, index_t queries, index_t keys, const block_options& options = {})
      : mask_(std::move(mask)), map_(block_map::from_classes(mask_, queries, keys, options)) {}

  /// With a map built before, of the same mask.
  block_mask(Mask mask, block_map map) : mask_(std::move(mask)), map_(std::move(map)) {}

  template <class Index>
    requires std::invocable<const Mask&, const basic_position<Index>&>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const {
    return mask_(at);
  }

  tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const {
    const bool has_keys = k0 >= map_.kv_offset() && k1 <= map_.kv_offset() + map_.keys();
    if (!has_keys || !has_rows(b, h, q0, q1)) return detail::classify(mask_, b, h, q0, q1, k0, k1);
    const index_t first = (k0 - map_.kv_offset()) / map_.block_kv(),
                  last = (k1 - 1 - map_.kv_offset()) / map_.block_kv();
    bool some = false, all = true;
    for (index_t i = tile(q0); i <= tile(q1 - 1); ++i) {
      const block_row row = map_.row(b, h, i);
      index_t found = 0;
      for (const block_entry* e = from_column(row, first); e != row.end() && e->column <= last; ++e) {
        some = true;
        found += e->full;
      }
      all &= found == last - first + 1;
      if (some && !all) break;
    }
    return detail::class_of(!some, all);
  }

  key_range keys(int b, int h, int q0, int q1) const {
    if (!has_rows(b, h, q0, q1)) return detail::visible_keys(mask_, b, h, q0, q1);
    index_t first = map_.columns(), last = -1;
    for (index_t i = tile(q0); i <= tile(q1 - 1); ++i) {
      const block_row row = map_.row(b, h, i);
      if (row.size() == 0) continue;
      first = min(first, index_t(row[0].column));
      last = max(last, index_t(row[row.size() - 1].column));
    }
    const int low = static_cast<int>(map_.kv_offset()), high = static_cast<int>(map_.kv_offset() + map_.keys());
    key_range found = {low, low};
    if (last >= 0)
      found = {static_cast<int>(low + first * map_.block_kv()),
               static_cast<int>(min(low + (last + 1) * map_.block_kv(), index_t(high)))};
    // Keys that the map does not have.
    const key_range seen = detail::visible_keys(mask_, b, h, q0, q1);
    found = detail::hull(found, detail::overlap(seen, {high, INT_MAX}));
    return low > 0 ? detail::hull(found, detail::overlap(seen, {INT_MIN, low})) : found;
  }

  const block_map& map() const noexcept { return map_; }
  const Mask& mask() const noexcept { return mask_; }

 private:
  index_t tile(int q) const noexcept { return (q - map_.q_offset()) / map_.block_q(); }

  bool has_rows(int b, int h, int q0, int q1) const noexcept {
    return q0 >= map_.q_offset() && q1 <= map_.q_offset() + map_.queries() && (map_.batch() == 1 || b < map_.batch()) &&
           (map_.heads() == 1 || h < map_.heads());
  }

  static const block_entry* from_column(const block_row& row, index_t column) noexcept {
    const block_entry* first = row.begin();
    for (index_t count = row.size(); count > 0;) {
      const index_t half = count / 2;
      const bool before = first[half].column < column;
      first = before ? first + half + 1 : first;
      count = before ? count - half - 1 : half;
    }
    return first;
  }

  Mask mask_;
  block_map map_;
};

HEED_ARCH_END
