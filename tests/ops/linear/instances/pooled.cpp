#define HEED_TEST_INSTANTIATE
#include "ops/linear/agent.hpp"
#include "ops/linear/efficient.hpp"
