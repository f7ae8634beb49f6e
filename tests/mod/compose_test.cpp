#include <heed/mod/compose.hpp>
#include <heed/mod/document.hpp>
#include <heed/mod/masks.hpp>
#include <heed/mod/neighborhood.hpp>

#include "mod/rectangles.hpp"

#include <functional>
#include <memory>
#include <random>
#include <vector>

using namespace heed_test;

namespace {

/// Any mask, so that trees can be grown at run time. Keeps what keys() and classify() of the real one say.
struct any_mask : heed::mask_base {
  template <class M>
  explicit any_mask(const M& mask)
      : visible([mask](int b, int h, int q, int kv) { return static_cast<bool>(mask(heed::position{b, h, q, kv})); }),
        tile([mask](int b, int h, int q0, int q1, int k0, int k1) {
          return heed::detail::classify(mask, b, h, q0, q1, k0, k1);
        }),
        range([mask](int b, int h, int q0, int q1) { return heed::detail::visible_keys(mask, b, h, q0, q1); }) {}

  bool operator()(const heed::position& at) const { return visible(at.b, at.h, at.q, at.kv); }
  tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const { return tile(b, h, q0, q1, k0, k1); }
  key_range keys(int b, int h, int q0, int q1) const { return range(b, h, q0, q1); }

  visible_fn visible;
  std::function<tile_class(int, int, int, int, int, int)> tile;
  std::function<key_range(int, int, int, int)> range;
};

constexpr promises none{.empty = false, .full = false, .hull = false};

struct odd_keys : heed::mask_base {
  bool operator()(const heed::position& at) const { return at.kv % 2 != 0; }
};

}  // namespace

TEST_CASE("and, or, not are what they say") {
  const heed::causal a{};
  const heed::window b{3, 5};
  const auto in_a = [](int q, int kv) { return kv <= q; };
  const auto in_b = [](int q, int kv) { return kv >= q - 3 && kv <= q + 5; };
  check_mask(a & b, [=](int, int, int q, int kv) { return in_a(q, kv) && in_b(q, kv); }, {-10, 30}, none);
  check_mask(a | b, [=](int, int, int q, int kv) { return in_a(q, kv) || in_b(q, kv); }, {-10, 30}, none);
  check_mask(!b, [=](int, int, int q, int kv) { return !in_b(q, kv); }, {-10, 30}, none);
  check_mask((a & !heed::mask_mod{odd_keys{}}) | (b & heed::padding{9}),
             [=](int, int, int q, int kv) { return (in_a(q, kv) && kv % 2 == 0) || (in_b(q, kv) && kv < 9); },
             {-10, 30}, none);
}

TEST_CASE("classes follow the table") {
  // Rectangles of which the operands' classes are known: queries 0..9 against keys of a causal mask.
  const struct {
    int k0, k1;
    tile_class is;
  } tiles[] = {{20, 30, tile_class::empty}, {5, 15, tile_class::partial}, {-10, 0, tile_class::full}};
  const heed::causal causal{};
  for (const auto& t : tiles) {
    const tile_class opposite = t.is == tile_class::empty  ? tile_class::full
                                : t.is == tile_class::full ? tile_class::empty
                                                           : tile_class::partial;
    CHECK((!causal).classify(0, 0, 0, 10, t.k0, t.k1) == opposite);
    // All keys visible, no key visible, some keys visible.
    const heed::padding all{100}, no{-100};
    const heed::mask_mod some{odd_keys{}};
    CHECK((causal & all).classify(0, 0, 0, 10, t.k0, t.k1) == t.is);
    CHECK((all & causal).classify(0, 0, 0, 10, t.k0, t.k1) == t.is);
    CHECK((causal & no).classify(0, 0, 0, 10, t.k0, t.k1) == tile_class::empty);
    CHECK((no & causal).classify(0, 0, 0, 10, t.k0, t.k1) == tile_class::empty);
    CHECK((causal | all).classify(0, 0, 0, 10, t.k0, t.k1) == tile_class::full);
    CHECK((all | causal).classify(0, 0, 0, 10, t.k0, t.k1) == tile_class::full);
    CHECK((causal | no).classify(0, 0, 0, 10, t.k0, t.k1) == t.is);
    CHECK((no | causal).classify(0, 0, 0, 10, t.k0, t.k1) == t.is);
    CHECK((causal & some).classify(0, 0, 0, 10, t.k0, t.k1) ==
          (t.is == tile_class::empty ? tile_class::empty : tile_class::partial));
    CHECK((some | causal).classify(0, 0, 0, 10, t.k0, t.k1) ==
          (t.is == tile_class::full ? tile_class::full : tile_class::partial));
  }
}

TEST_CASE("key ranges: intersection, hull, unbounded") {
  const heed::causal causal{};
  const heed::window band{4, 2};
  const auto is = [](key_range r, int begin, int end) { return r.begin == begin && r.end == end; };
  CHECK(is(causal.keys(0, 0, 10, 20), INT_MIN, 20));
  CHECK(is(band.keys(0, 0, 10, 20), 6, 22));
  CHECK(is((causal & band).keys(0, 0, 10, 20), 6, 20));
  CHECK(is((causal | band).keys(0, 0, 10, 20), INT_MIN, 22));
  CHECK(is((band & heed::padding{3}).keys(0, 0, 10, 20), 6, 6));
  CHECK(is((band | heed::padding{50, 3}).keys(0, 0, 10, 20), 6, 22));
  CHECK(is((heed::padding{50, 3} | band).keys(0, 0, 10, 20), 6, 22));
  CHECK(is(heed::detail::visible_keys(!band, 0, 0, 10, 20), INT_MIN, INT_MAX));
  CHECK(is((band & heed::mask_mod{odd_keys{}}).keys(0, 0, 10, 20), 6, 22));
  CHECK(is((band | heed::mask_mod{odd_keys{}}).keys(0, 0, 10, 20), INT_MIN, INT_MAX));
}

TEST_CASE("random trees of masks keep the contract") {
  const std::vector<std::int32_t> ids{0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3},
      mixed{2, 0, 0, 1, 1, 1, 2, 2, 0, 0};
  const std::vector<any_mask> leaves{
      any_mask(heed::causal{}),
      any_mask(heed::window{4, 1}),
      any_mask(heed::dilated{6, 2}),
      any_mask(heed::prefix_lm{5}),
      any_mask(heed::padding{3, 12}),
      any_mask(heed::document{mixed}),
      any_mask(heed::sorted_document{ids}),
      any_mask(heed::global_window{1, 1, mixed}),
      any_mask(heed::neighborhood<2>({{.length = 4, .window = 3}, {.length = 4, .window = 2}})),
      any_mask(heed::mask_mod{odd_keys{}})};
  std::mt19937 random(11);
  const auto below = [&random](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random); };
  for (int tree = 0; tree < 60; ++tree) {
    std::vector<any_mask> open;
    std::vector<visible_fn> truth;
    for (std::size_t i = 0, n = 2 + below(4); i < n; ++i) {
      open.push_back(leaves[below(leaves.size())]);
      truth.push_back(open.back().visible);
    }
    while (open.size() > 1) {
      const any_mask a = open.back(), b = open[open.size() - 2];
      const visible_fn x = truth.back(), y = truth[truth.size() - 2];
      open.resize(open.size() - 2, a);
      truth.resize(truth.size() - 2);
      switch (below(4)) {
        case 0:
          open.emplace_back(a & b);
          truth.push_back([x, y](int e, int h, int q, int kv) { return x(e, h, q, kv) && y(e, h, q, kv); });
          break;
        case 1:
          open.emplace_back(a | b);
          truth.push_back([x, y](int e, int h, int q, int kv) { return x(e, h, q, kv) || y(e, h, q, kv); });
          break;
        case 2:
          open.emplace_back(a & !b);
          truth.push_back([x, y](int e, int h, int q, int kv) { return x(e, h, q, kv) && !y(e, h, q, kv); });
          break;
        default:
          open.emplace_back(!(a | b));
          truth.push_back([x, y](int e, int h, int q, int kv) { return !(x(e, h, q, kv) || y(e, h, q, kv)); });
      }
    }
    const any_mask mask = open[0];
    const visible_fn visible = truth[0];
    CAPTURE(tree);
    for (int round = 0; round < 300; ++round) {
      const int q0 = static_cast<int>(below(22)) - 3, q1 = q0 + 1 + static_cast<int>(below(6));
      const int k0 = static_cast<int>(below(22)) - 3, k1 = k0 + 1 + static_cast<int>(below(6));
      CAPTURE(q0, q1, k0, k1);
      for (int q = q0; q < q1; ++q)
        for (int kv = k0; kv < k1; ++kv)
          if (mask(heed::position{0, 0, q, kv}) != visible(0, 0, q, kv)) FAIL("wrong answer for a pair");
      const tile_class said = mask.classify(0, 0, q0, q1, k0, k1);
      if (said != tile_class::partial && said != enumerate(visible, 0, 0, q0, q1, k0, k1)) FAIL("wrong class");
      const key_range keys = mask.keys(0, 0, q0, q1), hull = enumerate_keys(visible, 0, 0, q0, q1, {-6, 26});
      if (hull.begin < hull.end && (keys.begin > hull.begin || keys.end < hull.end)) FAIL("keys() hides a visible key");
    }
  }
}

TEST_CASE("concepts tell masks from scores and generic callables from typed ones") {
  struct lanes {};  // stands for a pack of integers: nothing a typed callable could take
  const auto generic = [](auto at) { return at.kv % 2 == 0; };
  const auto typed = [](heed::position at) { return at.kv % 2 == 0; };
  const auto score = [](auto s, auto at) { return s + static_cast<decltype(s)>(at.kv); };
  const auto typed_score = [](float s, heed::position at) { return s + static_cast<float>(at.kv); };
  using function = bool (*)(heed::position);

  STATIC_REQUIRE(heed::mask_callable<decltype(generic)>);
  STATIC_REQUIRE(heed::mask_callable<decltype(typed)>);
  STATIC_REQUIRE(heed::mask_callable<function>);
  STATIC_REQUIRE(heed::mask_callable<heed::causal>);
  STATIC_REQUIRE_FALSE(heed::mask_callable<decltype(score)>);
  STATIC_REQUIRE_FALSE(heed::score_callable<decltype(generic), float>);
  STATIC_REQUIRE(heed::score_callable<decltype(score), float>);
  STATIC_REQUIRE(heed::score_callable<decltype(score), double>);
  STATIC_REQUIRE(heed::score_callable<decltype(typed_score), float>);

  STATIC_REQUIRE(heed::generic_mask<decltype(generic), lanes>);
  STATIC_REQUIRE_FALSE(heed::generic_mask<decltype(typed), lanes>);
  STATIC_REQUIRE_FALSE(heed::generic_mask<function, lanes>);
  STATIC_REQUIRE(heed::generic_mask<heed::mask_mod<decltype(generic)>, lanes>);
  STATIC_REQUIRE_FALSE(heed::generic_mask<heed::mask_mod<decltype(typed)>, lanes>);
  STATIC_REQUIRE(heed::generic_score<decltype(score), float, lanes>);
  STATIC_REQUIRE_FALSE(heed::generic_score<decltype(typed_score), float, lanes>);
  // One typed operand makes the whole composition a matter of single lanes.
  STATIC_REQUIRE_FALSE(heed::generic_mask<decltype(heed::padding{3} & heed::mask_mod{typed}), lanes>);

  STATIC_REQUIRE(heed::mask_like<heed::causal>);
  STATIC_REQUIRE_FALSE(heed::mask_like<decltype(generic)>);
  STATIC_REQUIRE(heed::interval_mask<decltype(heed::causal{} & heed::padding{3})>);
  STATIC_REQUIRE_FALSE(heed::interval_mask<decltype(heed::causal{} & heed::mask_mod{typed})>);
}
