#include "ops/linear/gated_grid.hpp"

using namespace linear_test;

TEMPLATE_TEST_CASE("gated_linear_forward agrees with its definition for every element type", "", double, heed::bfloat16,
                   heed::float16) {
  check_forward<TestType>();
}
