// expected: heed: softmax statistics: q must be float, double, heed::bfloat16 or heed::float16
#include <heed/softmax.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<element, 4> q, heed::view<element, 4> k, heed::view<float, 3> lse, heed::view<float, 3> sum) {
  heed::softmax_column_statistics(q, k, lse, {.sum = sum});
}
