#define HEED_TEST_INSTANTIATE
#include "ops/linear/gated_slot_backward.hpp"
#include "ops/linear/gated_slot_step.hpp"
