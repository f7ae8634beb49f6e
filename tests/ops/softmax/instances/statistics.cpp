#include "ops/softmax/problem.hpp"
#define HEED_TEST_INSTANTIATE
#include "ops/softmax/statistics.hpp"
