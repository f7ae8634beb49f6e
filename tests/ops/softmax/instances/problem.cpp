#define HEED_TEST_INSTANTIATE
#include "ops/softmax/problem.hpp"
