// expected: heed::neighborhood: rank must be 1..3
#include <heed/mod.hpp>

#ifdef HEED_COMPILE_FAIL
template class heed::neighborhood<4>;
#else
template class heed::neighborhood<3>;
#endif
