/// The shapes that Gated Slot Attention goes through for one element type.
#pragma once

#include "ops/linear/gated_slot.hpp"
#include "ops/linear/grid.hpp"
#include "support/catch.hpp"

namespace linear_test {

/// check(problem, round) for every length and pair of D and slots, with everything else in turn.
template <class Problem, class Check>
void for_each_slot_shape(const Check& check) {
  unsigned round = 0;
  for (const index_t N : lengths())
    for (const index_t D : head_sizes)
      for (const index_t S : head_sizes) {
        if (!is_in_grid<typename Problem::storage>(N, D, S)) continue;
        const head_counts heads = groupings[round % std::size(groupings)];
        const double tau = taus[round / 2 % std::size(taus)];
        const index_t E = head_sizes[(round + N) % std::size(head_sizes)];
        const strengths write = round / 3 % 2 == 0 ? strengths::tied : strengths::free;
        const slot_shape s{1 + round % 2, heads.heads, heads.groups, N, D, E, S};
        CAPTURE(s.B, s.H, s.G, N, D, E, S, tau, static_cast<int>(write), round);
        Problem p(s, tau, round, write);
        check(p, round);
        ++round;
      }
}

template <class S>
void check_slot_forward() {
  for_each_slot_shape<slot_problem<S>>([](slot_problem<S>& p, unsigned round) {
    gated_slot_options<S> options;
    if (round % 4 != 0) {
      options.initial_keys = p.initial_keys;
      options.initial_values = p.initial_values;
    }
    if (round % 5 == 1) options.scale = -0.6;
    CHECK(error_of<S>(p, options) <= 1);
  });
}

}  // namespace linear_test
