#include "ops/softmax/arch.hpp"

TEST_CASE("softmax_forward of float16 agrees with its definition on every distinct instruction set") {
  softmax_test::check_distinct_arches<heed::float16>();
}
