#include "ops/softmax/backward.hpp"
#define HEED_TEST_INSTANTIATE
#include "ops/local/swin.hpp"
