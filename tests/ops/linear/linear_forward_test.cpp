#include "ops/linear/feature_grid.hpp"

using namespace linear_test;

TEST_CASE("linear_forward agrees with its definition for every length and head size") { check_linear_forward<float>(); }
