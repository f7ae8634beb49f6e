#include "ops/softmax/step.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

using namespace softmax_test;

TEMPLATE_TEST_CASE("softmax_step for every distinct instruction set of this machine", "", float, heed::bfloat16) {
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    for (const group& g : groups) {
      problem<TestType> p(shape_of(g, 140, 33, 48));
      const softmax_step_options<TestType> options{.softcap = 4, .lse = p.lse, .split = 64};
      heed::detail::softmax_step_on<A, TestType>(p.q, p.k, p.v, p.out, options, heed::causal{});
      CAPTURE(g.H, g.G, g.N);
      CHECK(step_error<TestType>(p, options, 1, heed::causal{}) <= 1);
      const softmax_step_options<TestType> plain{.lse = p.lse};
      heed::detail::softmax_step_on<A, TestType>(p.q, p.k, p.v, p.out, plain);
      CHECK(step_error<TestType>(p, plain, 1) <= 1);
    }
  });
}
