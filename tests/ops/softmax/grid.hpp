/// The shapes that softmax_forward goes through for one element type.
#pragma once

#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <heed/mod/masks.hpp>

#include <vector>

namespace softmax_test {

enum class pattern { all, causal, window };
inline constexpr pattern patterns[] = {pattern::all, pattern::causal, pattern::window};

/// 16-bit types share the kernel of float, and what they do not share are rows, whatever their number.
template <class S>
std::vector<index_t> lengths() {
  if (support::small_grid() || sizeof(S) == 2) return {0, 1, 7, 64, 129};
  return {0, 1, 2, 7, 16, 63, 64, 65, 128, 129, 200};
}
inline std::vector<index_t> head_sizes() {
  if (support::small_grid()) return {1, 3, 16, 80};
  return {1, 2, 3, 8, 16, 33, 64, 80, 96, 128, 200};
}

struct head_counts {
  index_t heads, groups;
};
inline constexpr head_counts groupings[] = {{2, 2}, {4, 2}, {3, 1}, {4, 1}, {1, 1}};

/// The patterns are written out here, not taken from the mask that is tested.
template <class S>
void check_shape(const shape& s, pattern which, unsigned seed) {
  CAPTURE(s.B, s.H, s.G, s.N, s.M, s.D, s.E, static_cast<int>(which), heed::dtype_name<S>);
  problem<S> p(s, seed);
  reference::softmax_arguments expected;
  switch (which) {
    case pattern::all:
      heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse});
      break;
    case pattern::causal:
      heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse}, heed::causal{});
      expected.visible = [](int, int, int query, int key) { return key <= query; };
      break;
    case pattern::window:
      heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .window_left = 20, .window_right = 9});
      expected.visible = [](int, int, int query, int key) { return key >= query - 20 && key <= query + 9; };
      break;
  }
  CHECK(worst_error(p, reference::softmax<S>(p.q, p.k, p.v, expected)) <= 1);
}

/// Every pair of lengths, head sizes and counts drawn at random.
template <class S>
void check_lengths() {
  support::random_engine random(11);
  const std::vector<index_t> sizes = head_sizes();
  unsigned seed = 0;
  for (const index_t N : lengths<S>())
    for (const index_t M : lengths<S>())
      for (const pattern which : patterns) {
        const auto size = [&] { return sizes[random() % sizes.size()]; };
        const head_counts heads = groupings[seed % std::size(groupings)];
        const index_t D = size(), E = size();
        ++seed;
        check_shape<S>({1 + seed % 2, heads.heads, heads.groups, N, M, D, E}, which, seed);
      }
}

/// Every pair of head sizes, lengths drawn at random.
template <class S>
void check_head_sizes() {
  support::random_engine random(12);
  unsigned seed = 1000;
  for (const index_t D : head_sizes())
    for (const index_t E : head_sizes()) {
      const index_t N = support::draw(random, 1, 70), M = support::draw(random, 1, 150);
      ++seed;
      check_shape<S>({1, 2, 1, N, M, D, E}, patterns[seed % 3], seed);
    }
}

}  // namespace softmax_test
