#include <heed/core/tensor.hpp>
#include <heed/mod/document.hpp>
#include <heed/mod/masks.hpp>

#include "mod/rectangles.hpp"
#include "support/refusal.hpp"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <vector>

using namespace heed_test;
using heed::index_t;
using support::message_of;

namespace {

constexpr extent_of_positions around{-6, 46};

int get(const std::vector<std::int32_t>& table, int i, int otherwise) {
  return i >= 0 && i < static_cast<int>(table.size()) ? table[static_cast<std::size_t>(i)] : otherwise;
}
bool inside(const std::vector<std::int32_t>& table, int i) { return i >= 0 && i < static_cast<int>(table.size()); }

}  // namespace

TEST_CASE("causal") {
  check_mask(heed::causal{}, [](int, int, int q, int kv) { return kv <= q; }, around);
}

TEST_CASE("window") {
  for (const index_t left : {-1, 0, 1, 5, 30})
    for (const index_t right : {-1, 0, 2, 9}) {
      if (left < 0 && right < 0) continue;
      CAPTURE(left, right);
      check_mask(
          heed::window{left, right},
          [=](int, int, int q, int kv) { return (left < 0 || kv >= q - left) && (right < 0 || kv <= q + right); },
          {-20, 30}, {}, 1, 7);
    }
  CHECK(heed::window{-1, -1}(heed::position{0, 0, 5, 900}));
  CHECK(heed::window{-1, -1}.classify(0, 0, -50, 50, -900, 900) == tile_class::full);
}

TEST_CASE("window: nothing overflows at the ends of int") {
  const heed::window wide{index_t(1) << 60, -1}, narrow{1, 1};
  for (const int q : {INT_MIN, -1, 0, 1, INT_MAX})
    for (const int kv : {INT_MIN, -1, 0, 1, INT_MAX}) {
      CHECK(wide(heed::position{0, 0, q, kv}));
      CHECK(narrow(heed::position{0, 0, q, kv}) == (std::llabs(static_cast<long long>(q) - kv) <= 1));
    }
  CHECK(narrow.classify(0, 0, INT_MIN, INT_MIN + 1, INT_MAX - 1, INT_MAX) == tile_class::empty);
  CHECK(wide.classify(0, 0, INT_MIN, INT_MIN + 1, INT_MAX - 1, INT_MAX) == tile_class::full);
}

TEST_CASE("dilated") {
  for (const int reach : {0, 1, 4, 11})
    for (const int step : {1, 2, 3, 5}) {
      CAPTURE(reach, step);
      check_mask(
          heed::dilated{reach, step},
          [=](int, int, int q, int kv) { return std::abs(q - kv) <= reach && (q - kv) % step == 0; }, {-20, 30}, {}, 1,
          3);
    }
}

TEST_CASE("prefix_lm") {
  check_mask(heed::prefix_lm{0}, [](int, int, int q, int kv) { return kv < 0 || kv <= q; }, around);
  check_mask(heed::prefix_lm{17}, [](int, int, int q, int kv) { return kv < 17 || kv <= q; }, around);
  const std::vector<std::int32_t> prefixes{4, 30, 0};
  check_mask(
      heed::prefix_lm{prefixes}, [&](int b, int, int q, int kv) { return kv < get(prefixes, b, 0) || kv <= q; }, around,
      {}, 4);
}

TEST_CASE("padding") {
  const std::vector<std::int32_t> begins{0, 5, 12, 9}, ends{20, 11, 12, 3};
  check_mask(heed::padding{13}, [](int, int, int, int kv) { return kv < 13; }, around);
  check_mask(heed::padding{ends}, [&](int b, int, int, int kv) { return kv < get(ends, b, 0); }, around, {}, 5);
  check_mask(
      heed::padding{begins, ends},
      [&](int b, int, int, int kv) { return kv >= get(begins, b, 0) && kv < get(ends, b, 0); }, around, {}, 5);
}

TEST_CASE("document") {
  const std::vector<std::int32_t> ids{3, 3, 3, 1, 1,       1,       1,  7,  7, 7, 7, 7,
                                      7, 3, 3, 3, INT_MIN, INT_MAX, -1, -1, 0, 0, 2, 2};
  const auto same = [&](int, int, int q, int kv) {
    return inside(ids, q) && inside(ids, kv) && get(ids, q, 0) == get(ids, kv, 0);
  };
  // One row serves all batch entries.
  check_mask(heed::document{ids}, same, around, {.empty = false, .full = true, .hull = false}, 2);

  const std::vector<std::int32_t> others{1, 1, 7, 7, 3, 5, 5, 5};
  check_mask(heed::document{others, ids},
             [&](int, int, int q, int kv) {
               return inside(others, q) && inside(ids, kv) && get(others, q, 0) == get(ids, kv, 0);
             },
             around, {.empty = false, .full = true, .hull = false});
}

TEST_CASE("document: tables of a batch, of any stride") {
  heed::tensor<std::int32_t, 2> stored({20, 3});  // [T,B]
  for (int i = 0; i < 20; ++i)
    for (int b = 0; b < 3; ++b) stored(i, b) = (i * (b + 1)) / 8;
  const auto ids = stored.all().swap_axes(0, 1);
  const auto same = [&](int b, int, int q, int kv) {
    return b < 3 && q >= 0 && q < 20 && kv >= 0 && kv < 20 && stored(q, b) == stored(kv, b);
  };
  // The batch entry that the table lacks sees nothing.
  check_mask(heed::document{ids}, same, {-5, 27}, {.empty = false, .full = true, .hull = false}, 4);
  check_mask(heed::sorted_document{ids}, same, {-5, 27}, {}, 4);
}

TEST_CASE("sorted_document") {
  const std::vector<std::int32_t> ids{-4, 0, 0, 0, 0, 1, 1, 1, 3, 3, 3, 3,  3,  3,
                                      8,  9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 12, 12, 12};
  const auto same = [&](int, int, int q, int kv) {
    return inside(ids, q) && inside(ids, kv) && get(ids, q, 0) == get(ids, kv, 0);
  };
  check_mask(heed::sorted_document{ids}, same, around);

  // Ids that only one side has: tiles whose ranges of ids meet and that are empty all the same.
  const std::array<std::int32_t, 12> q_ids{0, 0, 2, 2, 4, 4, 6, 6, 9, 9, 10, 10};
  const std::vector<std::int32_t> q_copy(q_ids.begin(), q_ids.end());
  check_mask(heed::sorted_document{q_ids, ids},
             [&](int, int, int q, int kv) {
               return inside(q_copy, q) && inside(ids, kv) && get(q_copy, q, 0) == get(ids, kv, 0);
             },
             around, {.empty = true, .full = true, .hull = false});
}

TEST_CASE("global_window") {
  const std::vector<std::int32_t> flags{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1,
                                        1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7};
  const std::vector<std::int32_t> none(10, 0);
  check_mask(heed::global_window{2, 1, flags},
             [&](int, int, int q, int kv) {
               return (kv >= q - 2 && kv <= q + 1) || get(flags, q, 0) != 0 || get(flags, kv, 0) != 0;
             },
             around, {.empty = true, .full = false, .hull = false});
  check_mask(heed::global_window{3, 0, none, flags},
             [&](int, int, int q, int kv) { return (kv >= q - 3 && kv <= q) || get(flags, kv, 0) != 0; }, around,
             {.empty = true, .full = false, .hull = false});
}

TEST_CASE("image_cross") {
  const std::vector<std::int32_t> start{0, 6, 6, 20, 30}, end{6, 20, 13, 40, 30};
  const auto seen = [&](int image, int q) { return get(start, image, 0) <= q && q < get(end, image, 0); };
  check_mask(heed::image_cross{start, end, 7}, [&](int, int, int q, int kv) { return kv >= 0 && seen(kv / 7, q); },
             around, {.hull = false});

  const std::vector<std::int32_t> image{0, 0, 0, 3, 3, 1, 1, 1, -1, 9, 2, 2, 2, 2, 4, 4};
  check_mask(heed::image_cross{start, end, image}, [&](int, int, int q, int kv) { return seen(get(image, kv, -1), q); },
             around, {.hull = false});
}

TEST_CASE("shared_prefix_document") {
  const std::vector<std::int32_t> ids{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3};
  const auto own = [&](int q, int kv) {
    return kv <= q && inside(ids, q) && inside(ids, kv) && get(ids, q, 0) == get(ids, kv, 0);
  };
  check_mask(heed::shared_prefix_document{5, heed::sorted_document{ids}},
             [&](int, int, int q, int kv) { return (q >= 5 && kv >= 0 && kv < 5) || own(q, kv); }, around,
             {.empty = false, .full = false, .hull = false});

  std::vector<std::int32_t> begin(22, 0), finish(22, 0);
  for (std::size_t i = 11; i < 22; ++i) begin[i] = 5, finish[i] = i < 19 ? 11 : 9;
  check_mask(heed::shared_prefix_document{begin, finish, heed::sorted_document{ids}},
             [&](int, int, int q, int kv) { return (kv >= get(begin, q, 0) && kv < get(finish, q, 0)) || own(q, kv); },
             around, {.empty = false, .full = false, .hull = false});
}

TEST_CASE("masks refuse what they cannot mean") {
  using Catch::Matchers::ContainsSubstring;
  const std::vector<std::int32_t> two{1, -2}, three{0, 1, 2};
  CHECK(message_of([] { heed::window(-2, 0); }) ==
        "heed::window: left: expected at least 0, or -1 for unbounded, got -2");
  CHECK(message_of([] { heed::window(0, -5); }) ==
        "heed::window: right: expected at least 0, or -1 for unbounded, got -5");
  CHECK(message_of([] { heed::dilated(-1, 2); }) == "heed::dilated: reach: expected at least 0, got -1");
  CHECK(message_of([] { heed::dilated(4, 0); }) == "heed::dilated: step: expected at least 1, got 0");
  CHECK(message_of([] { heed::prefix_lm(-3); }) == "heed::prefix_lm: prefix: expected at least 0, got -3");
  CHECK(message_of([&] { heed::prefix_lm{two}; }) == "heed::prefix_lm: prefix: expected at least 0, got -2");
  CHECK_THAT(message_of([&] { heed::global_window(-2, 0, two); }), ContainsSubstring("left"));
  CHECK(message_of([&] { heed::image_cross(two, two, 0); }) ==
        "heed::image_cross: tokens_per_image: expected at least 1, got 0");
  CHECK(message_of([&] { heed::image_cross(two, three, 4); }) ==
        "heed::image_cross: end: expected as many images as start, got 3");
  CHECK_THAT(message_of([&] { heed::shared_prefix_document(-1, heed::document{two}); }), ContainsSubstring("prefix"));
  CHECK_THAT(message_of([&] { heed::shared_prefix_document(two, three, heed::document{two}); }),
             ContainsSubstring("as many positions as begin, got 3"));
#if defined(HEED_DEBUG_CHECKS)
  CHECK(message_of([&] { heed::sorted_document{two}; }) ==
        "heed::sorted_document: q_ids: expected ids that never descend, got -2");
#endif
}
