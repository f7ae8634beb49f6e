/// The shapes that gated linear attention goes through for one element type.
#pragma once

#include "ops/linear/gated.hpp"
#include "ops/linear/grid.hpp"
#include "support/catch.hpp"

namespace linear_test {

/// check(problem, kind, round) for every length and pair of head sizes, with everything else in turn.
template <class Problem, class Check>
void for_each_shape(const Check& check) {
  unsigned round = 0;
  for (const index_t N : lengths())
    for (const index_t D : head_sizes)
      for (const index_t E : head_sizes) {
        if (!is_in_grid<typename Problem::storage>(N, D, E)) continue;
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
