// expected: heed::dilated_forward: tensors must be float, double, heed::bfloat16 or heed::float16
#include <heed/ops/local/dilated.hpp>

#ifdef HEED_COMPILE_FAIL
using element = int;
#else
using element = float;
#endif

void call(heed::view<const element, 4> q, heed::view<const element, 4> k, heed::view<const element, 4> v,
          heed::view<element, 4> out) {
  heed::dilated_forward(q, k, v, out, {.step = 2});
}
