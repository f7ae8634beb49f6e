#include "ops/linear/gated_slot_step.hpp"
#include "ops/linear/gated_step.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"

using namespace linear_test;

TEST_CASE("steps agree with their definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    for (const index_t heads : {2, 4, 10}) {
      CAPTURE(heads);
      for (const gates kind : gate_kinds) {
        problem<float> p({1, heads, 2, 5, 33, 70});
        step_through_on<A, float>(p, kind, 2);
        CHECK(step_error<float>(p, kind) <= 1);
      }
      slot_problem<float> slots({1, heads, 2, 5, 33, 70, 18});
      step_through_on<A, float>(slots, 2);
      CHECK(step_error<float>(slots) <= 1);
    }
  });
}
