#include "ops/local/neighborhood.hpp"
#include "support/catch.hpp"

using namespace neighborhood_test;

TEMPLATE_TEST_CASE("neighborhood attention of 16-bit numbers and its gradients agree with the definition", "",
                   heed::bfloat16, heed::float16) {
  for (const shape& s : shapes()) {
    CAPTURE(heed::dtype_name<TestType>, name_of(s));
    problem<TestType> p(s);
    solve(p);
    CHECK(error_of(p) <= 1);
  }
  // Few enough units for partial sums, many enough for none.
  problem<TestType> many({{{30, 7, 1, 4}}, 2, 2, 2, 8, 8, 3});
  solve(many);
  CHECK(error_of(many) <= 1);
}
