#include "ops/softmax/arch.hpp"

TEST_CASE("softmax_forward of float agrees with its definition on every instruction set") {
  support::for_each_arch([](auto arch) { softmax_test::check_arch<float, decltype(arch)>(); });
}
