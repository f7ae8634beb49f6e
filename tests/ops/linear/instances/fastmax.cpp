#define HEED_TEST_INSTANTIATE
#include "ops/linear/fastmax.hpp"
