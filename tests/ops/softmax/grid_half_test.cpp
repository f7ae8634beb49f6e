#include "ops/softmax/grid.hpp"

using namespace softmax_test;
using heed::bfloat16;
using heed::float16;

TEMPLATE_TEST_CASE("softmax_forward of 16-bit tensors agrees with its definition for every pair of lengths", "",
                   bfloat16, float16) {
  check_lengths<TestType>();
}

TEMPLATE_TEST_CASE("softmax_forward of 16-bit tensors agrees with its definition for every pair of head sizes", "",
                   bfloat16, float16) {
  check_head_sizes<TestType>();
}
