#define HEED_TEST_INSTANTIATE
#include "ops/linear/feature_backward.hpp"
