#include "ops/softmax/masked.hpp"

#include <heed/mod/document.hpp>
#include <heed/mod/masks.hpp>

#include <cstdint>
#include <vector>

using namespace softmax_test;

namespace {

/// Documents of random lengths, ids ascending or shuffled.
std::vector<std::int32_t> random_ids(std::size_t count, bool ascending, unsigned seed) {
  support::random_engine random(seed);
  std::vector<std::int32_t> ids(count);
  std::int32_t id = 0;
  for (std::int32_t& x : ids) {
    if (random() % 17 == 0)
      id = ascending ? id + static_cast<std::int32_t>(random() % 3) : static_cast<std::int32_t>(random() % 4);
    x = id;
  }
  return ids;
}

}  // namespace

TEST_CASE("document masks hide what they say, also where tables are shorter than the sequences") {
  for (const std::size_t count : {200u, 100u, 0u}) {
    const auto ids = random_ids(count, false, 1), sorted = random_ids(count, true, 2);
    CAPTURE(count);
    check_mask(heed::document{ids});
    check_mask(heed::sorted_document{sorted});
    check_mask_in_window(heed::document{ids, sorted});
  }
}

TEST_CASE("global_window hides what it says") {
  std::vector<std::int32_t> flags(180, 0);
  for (const std::size_t i : {0u, 1u, 50u, 129u}) flags[i] = 1;
  check_mask(heed::global_window{5, 0, flags});
  check_mask_in_window(heed::global_window{16, 16, flags});
}

TEST_CASE("image_cross hides what it says") {
  const std::vector<std::int32_t> start{0, 20, 60, 90}, end{20, 60, 90, 200};
  const auto images = random_ids(180, false, 4);
  check_mask(heed::image_cross{start, end, 16});
  check_mask_in_window(heed::image_cross{start, end, images});
}

TEST_CASE("shared_prefix_document hides what it says") {
  const auto sorted = random_ids(200, true, 6), ids = random_ids(200, false, 7);
  check_mask(heed::shared_prefix_document{30, heed::sorted_document{sorted}});
  std::vector<std::int32_t> begin(200, 10), finish(200, 10);
  for (std::size_t i = 100; i < 200; ++i) finish[i] = 70;
  check_mask(heed::shared_prefix_document{begin, finish, heed::document{ids}});
}
