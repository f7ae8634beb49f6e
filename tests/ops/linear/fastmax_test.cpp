#include "ops/linear/fastmax.hpp"
#include "ops/linear/grid.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <vector>

using namespace linear_test;

namespace {

/// check(problem, options, round) for shapes, orders, norms and patterns.
template <class S, class Check>
void for_each_fastmax(const Check& check) {
  unsigned round = 0;
  for (const index_t N : {0, 1, 17, 65, 130})
    for (const index_t D : {1, 3, 8, 17})
      for (const index_t E : {1, 7, 16})
        for (const int p : {1, 2}) {
          const head_counts heads = groupings[round % std::size(groupings)];
          const fastmax_norm norm = fastmax_norms_of[round % 3];
          const bool causal = round / 2 % 2 == 0;
          fastmax_shape s{1 + round % 2, heads.heads, heads.groups, N, D, E};
          if (round % 5 == 3) s.M = causal ? N + 40 : N / 2;
          CAPTURE(s.B, s.H, s.G, N, s.keys(), D, E, p, static_cast<int>(norm), causal);
          fastmax_problem<S> problem(s, p);
          fastmax_options<S> options = problem.options(p, norm, causal);
          options.centre = round % 4 != 1;
          if (round % 7 == 2) options.limit = 0.75;
          if (round % 3 == 1) options.chunk = 16;
          check(problem, options);
          ++round;
        }
}

}  // namespace

TEMPLATE_TEST_CASE("fastmax_forward agrees with its definition", "", float, double, heed::bfloat16) {
  for_each_fastmax<TestType>(
      [](auto& problem, const auto& options) { CHECK(error_of<TestType>(problem, options) <= 1); });
}

TEMPLATE_TEST_CASE("fastmax_backward agrees with its definition", "", float, double, heed::bfloat16) {
  for_each_fastmax<TestType>(
      [](auto& problem, const auto& options) { CHECK(gradient_error_of<TestType>(problem, options) <= 1); });
}
