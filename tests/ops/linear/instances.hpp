/// HEED_TEST_INSTANCE for headers of this folder, which include it last. No #pragma once.
#undef HEED_TEST_SHARED
#define HEED_TEST_SHARED HEED_TEST_SHARED_LINEAR
#include "support/instances.hpp"
