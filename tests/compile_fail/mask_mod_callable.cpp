// expected: heed::mask_mod: needs a callable f(heed::position) -> bool
#include <heed/mod.hpp>

#ifdef HEED_COMPILE_FAIL
const auto mask = heed::mask_mod{[](int query, int key) { return query >= key; }};
#else
const auto mask = heed::mask_mod{[](heed::position at) { return at.q >= at.kv; }};
#endif
