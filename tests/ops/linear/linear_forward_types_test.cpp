#include "ops/linear/feature_grid.hpp"

using namespace linear_test;

TEMPLATE_TEST_CASE("linear_forward agrees with its definition for every element type", "", double, heed::bfloat16,
                   heed::float16) {
  check_linear_forward<TestType>();
}
