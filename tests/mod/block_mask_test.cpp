#include <heed/mod/block_mask.hpp>
#include <heed/mod/document.hpp>
#include <heed/mod/masks.hpp>
#include <heed/mod/neighborhood.hpp>

#include "mod/rectangles.hpp"
#include "support/refusal.hpp"

#include <tuple>
#include <vector>

using namespace heed_test;
using heed::block_map;
using heed::block_options;
using heed::index_t;
using support::message_of;

namespace {

/// The class of every tile by the definition: what a map must hold. Order: b, h, row, column.
template <class Mask>
std::vector<tile_class> enumerate_tiles(const Mask& mask, index_t n, index_t m, const block_options& o) {
  const int q_offset = static_cast<int>(o.q_offset.or_default(m - n)), kv_offset = static_cast<int>(o.kv_offset);
  const visible_fn visible = [&](int b, int h, int q, int kv) {
    return static_cast<bool>(mask(heed::position{b, h, q, kv}));
  };
  std::vector<tile_class> classes;
  for (int b = 0; b < o.batch; ++b)
    for (int h = 0; h < o.heads; ++h)
      for (index_t i = 0; i < n; i += o.block_q)
        for (index_t j = 0; j < m; j += o.block_kv)
          classes.push_back(enumerate(
              visible, b, h, static_cast<int>(i) + q_offset, static_cast<int>(std::min(i + o.block_q, n)) + q_offset,
              static_cast<int>(j) + kv_offset, static_cast<int>(std::min(j + o.block_kv, m)) + kv_offset));
  return classes;
}

/// The classes that a map holds, in the same order. Columns must ascend.
std::vector<tile_class> tiles_of(const block_map& map) {
  std::vector<tile_class> classes;
  index_t entries = 0;
  for (index_t b = 0; b < map.batch(); ++b)
    for (index_t h = 0; h < map.heads(); ++h)
      for (index_t i = 0; i < map.rows(); ++i) {
        std::vector<tile_class> row(static_cast<std::size_t>(map.columns()), tile_class::empty);
        index_t before = -1;
        for (const heed::block_entry& e : map.row(b, h, i)) {
          REQUIRE(e.column > before);
          REQUIRE(e.column < map.columns());
          before = e.column;
          row[static_cast<std::size_t>(e.column)] = e.full ? tile_class::full : tile_class::partial;
          ++entries;
        }
        classes.insert(classes.end(), row.begin(), row.end());
      }
  CHECK(entries == map.entries());
  return classes;
}

std::vector<tile_class> transposed(const std::vector<tile_class>& tiles, index_t maps, index_t n, index_t m) {
  std::vector<tile_class> other;
  for (index_t map = 0; map < maps; ++map)
    for (index_t j = 0; j < m; ++j)
      for (index_t i = 0; i < n; ++i) other.push_back(tiles[static_cast<std::size_t>((map * n + i) * m + j)]);
  return other;
}

/// `exact`: classify() of the mask tells whenever a tile is empty or full.
template <class Mask>
void check_maps(const Mask& mask, index_t n, index_t m, const block_options& o, bool exact = true) {
  CAPTURE(n, m, o.block_q, o.block_kv, o.kv_offset);
  const auto truth = enumerate_tiles(mask, n, m, o);
  const block_map pairs = block_map::from_pairs(mask, n, m, o), classes = block_map::from_classes(mask, n, m, o);
  REQUIRE(tiles_of(pairs) == truth);
  if (exact) REQUIRE(tiles_of(classes) == truth);
  const auto kept = tiles_of(classes);
  for (std::size_t i = 0; i < truth.size(); ++i)
    if (kept[i] != tile_class::partial) REQUIRE(kept[i] == truth[i]);
  if constexpr (heed::interval_mask<Mask>) {
    // An interval for each query: nothing is lost, unless two of them leave a gap that holds a whole tile.
    const auto intervals = tiles_of(block_map::from_intervals(mask, n, m, o));
    for (std::size_t i = 0; i < truth.size(); ++i)
      if (truth[i] != tile_class::empty || exact) REQUIRE(intervals[i] == truth[i]);
  }
  for (const block_map* map : {&pairs, &classes}) {
    const block_map other = map->transpose();
    CHECK(other.rows() == map->columns());
    CHECK(other.queries() == map->keys());
    CHECK(other.q_offset() == map->kv_offset());
    REQUIRE(tiles_of(other) == transposed(tiles_of(*map), o.batch * o.heads, map->rows(), map->columns()));
    REQUIRE(tiles_of(other.transpose()) == tiles_of(*map));
  }
}

}  // namespace

TEST_CASE("block maps built in three ways hold the classes of the tiles") {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 70; ++i) ids.push_back(i < 20 ? 0 : i < 23 ? 1 : i < 48 ? 4 : 5);
  for (const auto& [n, m] : {std::pair<index_t, index_t>{70, 70}, {37, 70}, {70, 41}, {1, 70}, {64, 1}, {5, 5}})
    for (const auto& [bq, bk] : {std::pair{16, 16}, {8, 13}, {64, 64}, {1, 7}, {7, 1}}) {
      const block_options o{.block_q = bq, .block_kv = bk};
      check_maps(heed::causal{}, n, m, o);
      check_maps(heed::window{9, 4}, n, m, o);
      check_maps(heed::prefix_lm{11}, n, m, o);
      check_maps(heed::padding{30}, n, m, o);
      check_maps(heed::sorted_document{ids}, n, m, o);
      check_maps(heed::dilated{12, 3}, n, m, o);
      check_maps(heed::neighborhood<2>({{.length = 7, .window = 3}, {.length = 10, .window = 5}}), n, m, o);
      check_maps(heed::causal{} & heed::sorted_document{ids}, n, m, o, false);
      check_maps(!heed::window{3, 3} & heed::causal{}, n, m, o, false);
    }
}

TEST_CASE("block maps know offsets, batch entries and heads") {
  const std::vector<std::int32_t> ends{10, 0, 33};
  check_maps(heed::causal{}, 20, 30, {.block_q = 8, .block_kv = 8, .q_offset = -5, .kv_offset = 3});
  check_maps(heed::window{2, 2}, 20, 30, {.block_q = 8, .block_kv = 8, .q_offset = 100, .kv_offset = 95});
  check_maps(heed::padding{ends}, 20, 30, {.block_q = 8, .block_kv = 8, .batch = 3});
  const auto by_head = [](heed::position at) { return at.kv <= at.q && at.q - at.kv <= 4 * at.h + at.b; };
  check_maps(by_head, 20, 30, {.block_q = 8, .block_kv = 8, .batch = 2, .heads = 3}, false);

  const block_map map = block_map::from_pairs(by_head, 20, 30, {.block_q = 8, .block_kv = 8, .batch = 1, .heads = 3});
  CHECK(map.row(7, 2, 1).begin() == map.row(0, 2, 1).begin());
}

TEST_CASE("block maps of nothing") {
  const block_map no_queries = block_map::from_classes(heed::causal{}, 0, 9),
                  no_keys = block_map::from_classes(heed::causal{}, 9, 0);
  CHECK(no_queries.rows() == 0);
  CHECK(no_keys.rows() == 1);
  CHECK(no_keys.row(0, 0, 0).size() == 0);
  CHECK(no_queries.transpose().rows() == 1);
  CHECK(no_queries.transpose().row(0, 0, 0).size() == 0);
  CHECK(no_keys.transpose().rows() == 0);
}

TEST_CASE("block_mask is its mask, with tiles looked up") {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(i < 13 ? 0 : i < 16 ? 1 : 2);
  const auto visible = [&](int, int, int q, int kv) {
    return kv <= q && q >= 0 && q < 40 && kv >= 0 && kv < 40 &&
           ids[static_cast<std::size_t>(q)] == ids[static_cast<std::size_t>(kv)];
  };
  const auto mask = heed::causal{} & heed::sorted_document{ids};
  const promises none{.empty = false, .full = false, .hull = false};
  // Rectangles inside the map, across its border and outside of it.
  check_mask(heed::block_mask{mask, 40, 40, {.block_q = 8, .block_kv = 4}}, visible, {-6, 46}, none);
  check_mask(heed::block_mask{mask, 21, 30, {.block_q = 5, .block_kv = 7, .q_offset = 11, .kv_offset = 6}}, visible,
             {-6, 46}, none);

  const auto typed = [&](heed::position at) { return visible(at.b, at.h, at.q, at.kv); };
  const heed::block_mask exact{typed, block_map::from_pairs(typed, 40, 40, {.block_q = 4, .block_kv = 4})};
  check_mask(exact, visible, {-6, 46}, none);
  for (int i = 0; i < 40; i += 4)
    for (int j = 0; j < 40; j += 4)
      CHECK(exact.classify(0, 0, i, i + 4, j, j + 4) == enumerate(visible, 0, 0, i, i + 4, j, j + 4));
  // Tiles that divide those of the map, and unions of them.
  CHECK(exact.classify(0, 0, 24, 26, 16, 18) == tile_class::full);
  CHECK(exact.classify(0, 0, 24, 40, 16, 24) == tile_class::full);
  CHECK(exact.classify(0, 0, 16, 40, 0, 12) == tile_class::empty);
  CHECK(exact.classify(0, 0, 16, 40, 12, 24) == tile_class::partial);
  // The typed lambda says nothing of keys beyond the map: they may be visible.
  CHECK(exact.keys(0, 0, 16, 20).begin == 16);
  CHECK(exact.keys(0, 0, 16, 20).end == INT_MAX);

  const heed::block_mask bounded{mask, block_map::from_pairs(mask, 40, 40, {.block_q = 4, .block_kv = 4})};
  CHECK(bounded.keys(0, 0, 16, 20).begin == 16);
  CHECK(bounded.keys(0, 0, 16, 20).end == 20);
  CHECK(bounded.keys(0, 0, 8, 18).begin == 0);
  CHECK(bounded.keys(0, 0, 8, 18).end == 20);

  // It composes like any other mask.
  check_mask(
      exact & heed::window{5, 5}, [&](int b, int h, int q, int kv) { return visible(b, h, q, kv) && q - kv <= 5; },
      {-6, 46}, none);
}

TEST_CASE("block_mask asks the mask where the map has no batch entry or head") {
  const std::vector<std::int32_t> ends{8, 16, 24};
  const heed::block_mask mask{heed::padding{ends}, 32, 32, {.block_q = 8, .block_kv = 8, .batch = 2}};
  CHECK(mask.classify(1, 0, 0, 8, 8, 16) == tile_class::full);
  CHECK(mask.classify(0, 0, 0, 8, 8, 16) == tile_class::empty);
  CHECK(mask.classify(2, 0, 0, 8, 16, 24) == tile_class::full);
  CHECK(mask.keys(2, 0, 0, 8).end == 24);
  CHECK(mask.keys(1, 5, 0, 8).end == 16);
}

TEST_CASE("block_map refuses what it cannot cut") {
  const heed::causal causal{};
  CHECK(message_of([&] { block_map::from_classes(causal, -1, 4); }) ==
        "heed::block_map: queries: expected at least 0, got -1");
  CHECK(message_of([&] { block_map::from_classes(causal, 4, -2); }) ==
        "heed::block_map: keys: expected at least 0, got -2");
  CHECK(message_of([&] { block_map::from_pairs(causal, 4, 4, {.block_q = 0}); }) ==
        "heed::block_map: block_q: expected at least 1, got 0");
  CHECK(message_of([&] { block_map::from_intervals(causal, 4, 4, {.block_kv = -8}); }) ==
        "heed::block_map: block_kv: expected at least 1, got -8");
  CHECK(message_of([&] { block_map::from_classes(causal, 4, 4, {.batch = 0}); }) ==
        "heed::block_map: batch: expected at least 1, got 0");
  CHECK(message_of([&] { heed::block_mask(causal, 4, 4, {.heads = 0}); }) ==
        "heed::block_map: heads: expected at least 1, got 0");
  CHECK(message_of([&] { block_map::from_classes(causal, 4, 4, {.kv_offset = INT_MAX}); }) ==
        "heed::block_map: kv_offset: expected positions that fit int, got 2147483647");
}
