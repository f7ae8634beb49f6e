#define HEED_TEST_INSTANTIATE
#include "ops/local/luong.hpp"
