#include "ops/linear/gated.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"

using namespace linear_test;

namespace {

template <class A, class S>
void check_arch() {
  CAPTURE(A::name());
  for (const gates kind : gate_kinds)
    for (const double tau : {0.1, 16.0})
      for (const shape& s : {shape{1, 4, 2, 100, 33, 20}, shape{2, 2, 1, 17, 3, 70}, shape{1, 1, 1, 64, 64, 64}}) {
        CAPTURE(static_cast<int>(kind), tau, s.N);
        problem<S> p(s, tau);
        CHECK(error_on<A, S>(p, kind, {.initial_state = p.initial_state}) <= 1);
      }
}

}  // namespace

TEMPLATE_TEST_CASE("gated_linear_forward agrees with its definition on every distinct instruction set", "", float,
                   heed::bfloat16) {
  support::for_each_distinct_arch([](auto arch) { check_arch<decltype(arch), TestType>(); });
}
