#include "ops/softmax/grid.hpp"

using namespace softmax_test;

TEMPLATE_TEST_CASE("softmax_forward agrees with its definition for every pair of lengths", "", float, double) {
  check_lengths<TestType>();
}

TEMPLATE_TEST_CASE("softmax_forward agrees with its definition for every pair of head sizes", "", float, double) {
  check_head_sizes<TestType>();
}

TEST_CASE("every way to share kv heads: H/G of 1, 2, 4 and H") {
  for (const auto [heads, groups] : {head_counts{8, 8}, {8, 4}, {8, 2}, {8, 1}, {12, 3}, {6, 2}, {5, 1}})
    for (const index_t batch : {1, 3})
      for (const pattern which : patterns) check_shape<float>({batch, heads, groups, 19, 37, 24, 16}, which, 5);
}

TEST_CASE("scores eight times as large stay within the same bound") {
  for (const index_t M : {5, 130, 300}) {
    problem<float> p({1, 2, 2, 33, M, 64, 64}, 3);
    for (float& x : p.q) x *= 8;
    CHECK(error_of(p) <= 1);
  }
}
