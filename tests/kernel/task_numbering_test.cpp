#include "support/catch.hpp"
#include "support/random.hpp"

#include <heed/kernel/softmax_run.hpp>

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

using heed::index_t;
using heed::detail::query_rows;
using heed::detail::task_numbering;

namespace {

/// Every row of every (sequence, head) must lie in exactly one tile, whose first row is a multiple of the size.
void check_cover(const task_numbering& tiles, index_t heads, const std::vector<index_t>& lengths, index_t size) {
  std::map<std::tuple<int, int, index_t>, int> owners;
  bool legal = true;
  for (index_t n = 0; n < tiles.count(); ++n) {
    const query_rows tile = tiles.at(n);
    if (tile.count == 0) continue;
    legal = legal && tile.sequence >= 0 && tile.sequence < static_cast<int>(lengths.size()) && tile.head >= 0 &&
            tile.head < heads && tile.count > 0 && tile.count <= size && tile.first % size == 0;
    for (int i = 0; i < tile.count; ++i) ++owners[{tile.sequence, tile.head, tile.first + i}];
  }
  index_t rows = 0;
  for (const index_t length : lengths) rows += length * heads;
  bool once = true;
  for (const auto& [row, count] : owners)
    once = once && count == 1 && std::get<2>(row) < lengths[static_cast<std::size_t>(std::get<0>(row))];
  CHECK(legal);
  CHECK(once);
  CHECK(static_cast<index_t>(owners.size()) == rows);
}

}  // namespace

TEST_CASE("the tiles of a batch cover every row once") {
  for (const index_t batch : {0, 1, 3})
    for (const index_t heads : {0, 1, 4})
      for (const index_t queries : {0, 1, 63, 64, 65, 200}) {
        CAPTURE(batch, heads, queries);
        check_cover(task_numbering(batch, heads, queries, {}, 64), heads,
                    std::vector<index_t>(static_cast<std::size_t>(batch), queries), 64);
      }
}

TEST_CASE("the tiles of a packed batch cover every row of every sequence once") {
  support::random_engine random(51);
  for (int round = 0; round < 300; ++round) {
    const index_t sequences = support::draw(random, 0, 9), heads = support::draw(random, 1, 3);
    const index_t size = round % 2 == 0 ? 48 : 7;
    std::vector<std::int32_t> cu{0};
    std::vector<index_t> lengths;
    for (index_t s = 0; s < sequences; ++s) {
      const index_t length = random() % 3 == 0 ? 0 : support::draw(random, 1, round % 5 == 0 ? 2 : 150);
      lengths.push_back(length);
      cu.push_back(cu.back() + static_cast<std::int32_t>(length));
    }
    CAPTURE(round, sequences, heads, size);
    const task_numbering tiles(1, heads, cu.back() + 5, cu, size);
    check_cover(tiles, heads, lengths, size);
    // Numbers that stay empty are few: at most one a sequence.
    CHECK(tiles.count() <= heads * (cu.back() / size + sequences + 1));
  }
}
