#include "ops/linear/fastmax.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"

using namespace linear_test;

namespace {

template <class A>
void check_arch() {
  CAPTURE(A::name());
  for (const fastmax_norm norm : fastmax_norms_of)
    for (const bool causal : {false, true}) {
      CAPTURE(static_cast<int>(norm), causal);
      fastmax_problem<float> p({2, 4, 2, 70, 9, 20});
      CHECK(error_on<A, float>(p, p.options(2, norm, causal)) <= 1);
    }
}

}  // namespace

TEST_CASE("fastmax_forward agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) { check_arch<decltype(arch)>(); });
}
