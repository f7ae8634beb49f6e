#include "ops/linear/gated_slot_grid.hpp"

using namespace linear_test;

TEMPLATE_TEST_CASE("gated_slot_forward agrees with its definition for every element type", "", double, heed::bfloat16,
                   heed::float16) {
  check_slot_forward<TestType>();
}
