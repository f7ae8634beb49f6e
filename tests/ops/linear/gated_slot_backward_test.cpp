#include "ops/linear/gated_slot_backward_grid.hpp"

using namespace linear_test;

TEST_CASE("gated_slot_backward agrees with its definition for every length, head size and number of slots") {
  check_slot_backward<float>();
}
