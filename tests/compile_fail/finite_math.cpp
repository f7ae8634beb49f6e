// expected: heed: -ffinite-math-only
#ifdef HEED_COMPILE_FAIL
#undef __FINITE_MATH_ONLY__
#define __FINITE_MATH_ONLY__ 1
#endif
#include <heed/config.hpp>
