#include "ops/linear/gated_grid.hpp"

using namespace linear_test;

TEST_CASE("gated_linear_forward agrees with its definition for every length and head size") { check_forward<float>(); }
