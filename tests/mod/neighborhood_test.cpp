#include <heed/mod/neighborhood.hpp>

#include "mod/rectangles.hpp"
#include "support/refusal.hpp"

#include <algorithm>

using namespace heed_test;
using heed::neighborhood_axis;
using support::message_of;

namespace {

/// The definition of one axis, for tokens x and y of the grid.
bool visible_on(const neighborhood_axis& a, int x, int y) {
  if (x % a.dilation != y % a.dilation) return false;
  const int group = x % a.dilation, length = (a.length - group + a.dilation - 1) / a.dilation;
  const int i = x / a.dilation, j = y / a.dilation;
  if (a.causal) {
    const int leader = std::min(i / a.stride * a.stride + a.stride - 1, length - 1);
    return j >= std::max(leader - (a.window - 1), 0) && j <= i;
  }
  const int leader = std::min(i / a.stride * a.stride + a.stride / 2, length - 1);
  const int start = std::clamp(leader - a.window / 2, 0, length - a.window);
  return j >= start && j < start + a.window;
}

template <int Rank>
bool visible_in(const neighborhood_axis (&axes)[Rank], int q, int kv) {
  int tokens = 1;
  for (const neighborhood_axis& a : axes) tokens *= a.length;
  if (q < 0 || q >= tokens || kv < 0 || kv >= tokens) return false;
  for (int axis = Rank - 1; axis >= 0; --axis) {
    const int length = axes[axis].length;
    if (!visible_on(axes[axis], q % length, kv % length)) return false;
    q /= length;
    kv /= length;
  }
  return true;
}

template <int Rank>
void check_grid(const neighborhood_axis (&axes)[Rank], extent_of_positions around, unsigned seed = 1) {
  check_mask(
      heed::neighborhood<Rank>(axes), [&axes](int, int, int q, int kv) { return visible_in(axes, q, kv); }, around, {},
      1, seed);
}

}  // namespace

TEST_CASE("neighborhood of one axis: every window, stride, dilation") {
  for (const int length : {2, 5, 13, 24})
    for (const int window : {2, 3, 4, 7})
      for (const int stride : {1, 2, 3, 4, 7})
        for (const int dilation : {1, 2, 3})
          for (const bool causal : {false, true}) {
            if (stride > window || window * dilation > length) continue;
            CAPTURE(length, window, stride, dilation, causal);
            check_grid({{length, window, stride, dilation, causal}}, {-4, length + 4},
                       static_cast<unsigned>(length + window));
          }
}

TEST_CASE("neighborhood of two and three axes") {
  check_grid({{.length = 7, .window = 3}, {.length = 6, .window = 4}}, {-5, 48});
  check_grid({{.length = 5, .window = 2, .stride = 2, .causal = true}, {.length = 9, .window = 3, .dilation = 2}},
             {-5, 50});
  check_grid({{.length = 6, .window = 2, .dilation = 3}, {.length = 5, .window = 5}}, {-5, 36});
  check_grid({{.length = 3, .window = 2}, {.length = 4, .window = 3}, {.length = 5, .window = 2, .stride = 2}},
             {-5, 66});
  check_grid({{.length = 4, .window = 2, .causal = true},
              {.length = 4, .window = 2, .dilation = 2},
              {.length = 3, .window = 3}},
             {-5, 54}, 5);
}

TEST_CASE("neighborhood: every query sees a full window") {
  const neighborhood_axis axes[] = {{.length = 6, .window = 4, .stride = 3}, {.length = 8, .window = 3, .dilation = 2}};
  const heed::neighborhood grid(axes);
  for (int q = 0; q < 48; ++q) {
    int count = 0;
    for (int kv = 0; kv < 48; ++kv) count += grid(heed::position{0, 0, q, kv});
    CHECK(count == 12);
  }
}

TEST_CASE("neighborhood: boxes of whole rows are told apart from their neighbors") {
  // Rows of 8, window 3 x 8: the queries of one row see exactly three rows.
  const heed::neighborhood<2> rows({{.length = 10, .window = 3}, {.length = 8, .window = 8}});
  CHECK(rows.classify(0, 0, 32, 40, 24, 48) == tile_class::full);
  CHECK(rows.classify(0, 0, 32, 40, 48, 80) == tile_class::empty);
  CHECK(rows.classify(0, 0, 32, 40, 24, 49) == tile_class::partial);
  CHECK(rows.keys(0, 0, 32, 40).begin == 24);
  CHECK(rows.keys(0, 0, 32, 40).end == 48);
}

TEST_CASE("neighborhood: far positions are safe") {
  const heed::neighborhood<2> grid({{.length = 4, .window = 3}, {.length = 5, .window = 3}});
  for (const int far : {INT_MIN, INT_MIN + 1, -1, 20, INT_MAX}) {
    CHECK_FALSE(grid(heed::position{0, 0, far, 3}));
    CHECK_FALSE(grid(heed::position{0, 0, 3, far}));
  }
  CHECK(grid.classify(0, 0, INT_MIN, INT_MAX, 3, 4) == tile_class::partial);
  CHECK(grid.classify(0, 0, INT_MIN, 0, 3, 4) == tile_class::empty);
  CHECK(grid.keys(0, 0, 20, INT_MAX).end == 0);
}

TEST_CASE("neighborhood refuses grids it cannot mean") {
  CHECK(message_of([] { heed::neighborhood<1>({.length = 5, .window = 1}); }) ==
        "heed::neighborhood: window: expected at least 2, got 1");
  CHECK(message_of([] { heed::neighborhood<1>({.length = 5, .window = 3, .stride = 4}); }) ==
        "heed::neighborhood: stride: expected 1..window, got 4");
  CHECK(message_of([] { heed::neighborhood<1>({.length = 5, .window = 3, .dilation = 0}); }) ==
        "heed::neighborhood: dilation: expected at least 1, got 0");
  CHECK(message_of([] {
          heed::neighborhood<2>({{.length = 5, .window = 3}, {.length = 5, .window = 3, .dilation = 2}});
        }) == "heed::neighborhood: length: expected at least window * dilation, got 5");
  CHECK(message_of([] {
          heed::neighborhood<2>({{.length = 1 << 16, .window = 3}, {.length = 1 << 16, .window = 3}});
        }) == "heed::neighborhood: length: expected a grid of less than 2^31 - 1 tokens, got 4294967296");
}
