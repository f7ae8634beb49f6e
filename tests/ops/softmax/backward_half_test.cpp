#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

using namespace softmax_test;

// On one instruction set: what others do differently with 16-bit types, conversions, is tested for all of them.
TEMPLATE_TEST_CASE("softmax_backward of 16-bit tensors agrees with its definition", "", heed::bfloat16, heed::float16) {
  using S = TestType;
  unsigned seed = 0;
  // The first has kv heads enough that no task shares one; the second has not.
  for (const shape& s : {shape{4, 8, 4, 33, 150, 20, 40}, shape{1, 2, 1, 300, 70, 33, 8}, shape{1, 1, 1, 5, 0, 8, 8}})
    for (const index_t right : {-1, 0}) {
      backward_problem<S> p(s, ++seed);
      const softmax_backward_options<S> options{.dlse = p.dlse, .window_right = right};
      CAPTURE(s.N, s.M, right);
      CHECK(gradient_error<S>(p, options) <= 1);
    }
}
