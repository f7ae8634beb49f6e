// expected: heed: rows of a cache are float, double, heed::bfloat16, heed::float16, heed::int8_rows, heed::int4_rows or heed::int4_half32_rows
#include <heed/cache.hpp>

#ifdef HEED_COMPILE_FAIL
using rows = int;
#else
using rows = float;
#endif

heed::index_t call(const heed::contiguous_cache<rows>& cache) { return cache.batch(); }
