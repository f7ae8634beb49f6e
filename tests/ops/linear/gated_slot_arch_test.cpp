#include "ops/linear/gated_slot.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"

using namespace linear_test;

namespace {

template <class A, class S>
void check_arch() {
  CAPTURE(A::name());
  for (const double tau : {0.1, 16.0})
    for (const slot_shape& s : {slot_shape{1, 4, 2, 100, 33, 20, 18}, slot_shape{2, 2, 1, 17, 3, 70, 1},
                                slot_shape{1, 1, 1, 64, 64, 64, 64}}) {
      CAPTURE(tau, s.N);
      slot_problem<S> p(s, tau);
      CHECK(error_on<A, S>(p, {.initial_keys = p.initial_keys, .initial_values = p.initial_values}) <= 1);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("gated_slot_forward agrees with its definition on every distinct instruction set", "", float,
                   heed::bfloat16) {
  support::for_each_distinct_arch([](auto arch) { check_arch<decltype(arch), TestType>(); });
}
