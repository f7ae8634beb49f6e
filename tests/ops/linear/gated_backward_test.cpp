#include "ops/linear/gated_backward_grid.hpp"

using namespace linear_test;

TEST_CASE("gated_linear_backward agrees with its definition for every length and head size") {
  check_backward<float>();
}
