/// Kernels that many files of a family call are made once: that is where compile time goes.
#pragma once

/// HEED_TEST_INSTANCE(function<types>); at the end of a header of tests/ops/<family>/ names a function template for types
/// that several files call. tests/ops/<family>/instances/*.cpp define HEED_TEST_INSTANTIATE, include the header and so
/// hold the function; other files leave it to them. CMake defines HEED_TEST_INSTANCES where it builds a whole family: a
/// part of one instantiates what it needs.
#if defined(HEED_TEST_INSTANTIATE)
#define HEED_TEST_INSTANCE(...) template decltype(__VA_ARGS__) __VA_ARGS__
#elif defined(HEED_TEST_INSTANCES)
#define HEED_TEST_INSTANCE(...) extern template decltype(__VA_ARGS__) __VA_ARGS__
#else
#define HEED_TEST_INSTANCE(...) static_assert(true)
#endif
