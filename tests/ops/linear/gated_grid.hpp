/// The shapes that gated linear attention goes through for one element type.
#pragma once

#include "ops/linear/problem.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <vector>

namespace linear_test {

inline std::vector<index_t> lengths() {
  if (support::small_grid()) return {0, 1, 17, 65};
  return {0, 1, 2, 15, 16, 17, 63, 64, 65, 200};
}
inline constexpr index_t head_sizes[] = {1, 3, 7, 16, 33, 64};

struct head_counts {
  index_t heads, groups;
};
inline constexpr head_counts groupings[] = {{2, 2}, {4, 2}, {3, 1}, {1, 1}, {6, 3}};

/// From gates near 0 to gates near 1.
inline constexpr double taus[] = {0.1, 1, 16};

/// check(problem, kind, round) for every length and pair of head sizes, with everything else in turn.
template <class Problem, class Check>
void for_each_shape(const Check& check) {
  unsigned round = 0;
  for (const index_t N : lengths())
    for (const index_t D : head_sizes)
      for (const index_t E : head_sizes) {
        if (support::small_grid() && (D * 7 + E + N) % 5 != 0) continue;
        const head_counts heads = groupings[round % std::size(groupings)];
        const double tau = taus[round / 2 % std::size(taus)];
        const shape s{1 + round % 2, heads.heads, heads.groups, N, D, E};
        const gates kind = gate_kinds[round / 3 % 2];
        CAPTURE(s.B, s.H, s.G, N, D, E, tau, static_cast<int>(kind), round);
        Problem p(s, tau, round);
        check(p, kind, round);
        ++round;
      }
}

template <class S>
void check_forward() {
  for_each_shape<problem<S>>([](problem<S>& p, gates kind, unsigned round) {
    recurrence_options<S> options;
    if (round % 4 != 0) options.initial_state = p.initial_state;
    if (round % 5 == 1) options.scale = -0.6;
    options.reverse = round % 7 == 3;
    CHECK(error_of<S>(p, kind, options) <= 1);
  });
}

}  // namespace linear_test
