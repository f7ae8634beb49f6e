#include "ops/linear/feature_backward.hpp"
#include "ops/linear/feature_grid.hpp"

using namespace linear_test;

TEMPLATE_TEST_CASE("linear_backward agrees with its definition for every element type", "", double, heed::bfloat16,
                   heed::float16) {
  for_each_feature_shape<feature_gradient_problem<TestType>>(
      [](feature_gradient_problem<TestType>& p, const feature_kind& kind, bool causal, unsigned round) {
        CHECK(gradient_error_of<TestType>(p, p.options(kind, causal, round % 4 != 0)) <= 1);
      });
}
