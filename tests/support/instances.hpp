/// Functions that many files call are made once: that is where compile time goes. Kernels above all; references, and
/// problems of the types that all files have, too.
///
/// HEED_TEST_INSTANCE(function<types>); at the end of a header of tests/ops/<family>/ names a function template for types
/// that several files call, HEED_TEST_INSTANCE_OF(...); what decltype does not find: a class, struct type<types>, or one of
/// several functions, type name<types>. tests/ops/<family>/instances/*.cpp define HEED_TEST_INSTANTIATE, include the
/// header and so hold the functions; other files, of other families too, leave it to them. CMake defines
/// HEED_TEST_SHARED_<FAMILY> as 1 where it builds all of a family: with a part of one, files instantiate what they need.
///
/// Headers include it through ops/<family>/instances.hpp. No #pragma once: what a header includes may be of another family,
/// and in an instance file stands before HEED_TEST_INSTANTIATE if another one holds it.
#undef HEED_TEST_INSTANCE
#undef HEED_TEST_INSTANCE_OF
#if defined(HEED_TEST_INSTANTIATE)
#define HEED_TEST_INSTANCE(...) template decltype(__VA_ARGS__) __VA_ARGS__
#define HEED_TEST_INSTANCE_OF(...) template __VA_ARGS__
#elif HEED_TEST_SHARED
#define HEED_TEST_INSTANCE(...) extern template decltype(__VA_ARGS__) __VA_ARGS__
#define HEED_TEST_INSTANCE_OF(...) extern template __VA_ARGS__
#else
#define HEED_TEST_INSTANCE(...) static_assert(true)
#define HEED_TEST_INSTANCE_OF(...) static_assert(true)
#endif
