#include "ops/softmax/arch.hpp"

TEST_CASE("softmax_forward of double agrees with its definition on every distinct instruction set") {
  softmax_test::check_distinct_arches<double>();
}
