/// What takes a compiler longest to read of all that heed includes, for tests/CMakeLists.txt to compile once. Tests that
/// call a compiler take it from there; no file includes it.
#if __has_include(<xsimd/xsimd.hpp>)
#include <xsimd/xsimd.hpp>
#endif
