#define HEED_TEST_INSTANTIATE
#include "ops/softmax/backward.hpp"
#include "ops/softmax/step.hpp"
