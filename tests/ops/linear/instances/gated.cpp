#define HEED_TEST_INSTANTIATE
#include "ops/linear/gated_backward.hpp"
#include "ops/linear/gated_step.hpp"
