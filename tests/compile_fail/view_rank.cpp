// expected: heed::view: rank must be 1..5
#include <heed/core/view.hpp>

#ifdef HEED_COMPILE_FAIL
heed::view<float, 6> v;
#else
heed::view<float, 5> v;
#endif
