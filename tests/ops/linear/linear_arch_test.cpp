#include "ops/linear/feature_backward.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"

using namespace linear_test;

namespace {

template <class A>
void check_arch() {
  CAPTURE(A::name());
  for (const feature_kind& kind : feature_kinds)
    for (const bool causal : {false, true})
      for (const feature_shape& s : {feature_shape{1, 4, 2, 100, 33, 20}, feature_shape{2, 2, 1, 17, 3, 70}}) {
        CAPTURE(static_cast<int>(kind.map), kind.normalise, causal, s.N);
        feature_gradient_problem<float> p(s);
        CHECK(error_on<A, float>(p, p.options(kind, causal, true)) <= 1);
        CHECK(gradient_error_on<A, float>(p, p.options(kind, causal, true)) <= 1);
      }
}

}  // namespace

TEST_CASE("linear attention agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) { check_arch<decltype(arch)>(); });
}
