// expected: heed: rows of a cache are float, double, heed::bfloat16, heed::float16, heed::int8_rows, heed::int4_rows or heed::int4_half32_rows
#include <heed/cache.hpp>

#ifdef HEED_COMPILE_FAIL
using rows = signed char;
#else
using rows = heed::int8_rows;
#endif

heed::index_t call(const heed::ring_sizes& sizes) {
  return heed::ring_cache<rows>(sizes).batch();
}
