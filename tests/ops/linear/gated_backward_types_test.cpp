#include "ops/linear/gated_backward_grid.hpp"

using namespace linear_test;

TEMPLATE_TEST_CASE("gated_linear_backward agrees with its definition for every element type", "", double,
                   heed::bfloat16, heed::float16) {
  check_backward<TestType>();
}
