/// The shapes that linear attention goes through for one element type.
#pragma once

#include "ops/linear/feature.hpp"
#include "ops/linear/grid.hpp"
#include "support/catch.hpp"

namespace linear_test {

/// check(problem, kind, causal, round) for every length and pair of head sizes, with everything else in turn.
template <class Problem, class Check>
void for_each_feature_shape(const Check& check) {
  unsigned round = 0;
  for (const index_t N : lengths())
    for (const index_t D : head_sizes)
      for (const index_t E : head_sizes) {
        if (!is_in_grid<typename Problem::storage>(N, D, E)) continue;
        const head_counts heads = groupings[round % std::size(groupings)];
        const feature_kind kind = feature_kinds[round % std::size(feature_kinds)];
        const bool causal = round / 2 % 2 == 0;
        feature_shape s{1 + round % 2, heads.heads, heads.groups, N, D, E};
        if (round % 7 == 5) s.M = causal ? N + 40 : N / 2;
        CAPTURE(s.B, s.H, s.G, N, s.keys(), D, E, static_cast<int>(kind.map), kind.normalise, causal, round);
        Problem p(s, round);
        check(p, kind, causal, round);
        ++round;
      }
}

template <class S>
void check_linear_forward() {
  for_each_feature_shape<feature_problem<S>>(
      [](feature_problem<S>& p, const feature_kind& kind, bool causal, unsigned round) {
        linear_options<S> options = p.options(kind, causal, round % 4 != 0);
        if (round % 5 == 1) options.scale = 0.6;
        if (round % 6 == 1) options.eps = 0.25;
        CHECK(error_of<S>(p, options) <= 1);
      });
}

}  // namespace linear_test
