#include "ops/local/neighborhood.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"

using namespace neighborhood_test;

TEST_CASE("neighborhood attention agrees with the definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    for (const shape& s : {shape{{{150, 70}}, 1, 2, 1, 9, 5, 2, true}, shape{{{17, 5}, {19, 4, 2, 2}}, 1, 2, 2, 8, 17},
                           shape{{{5, 3}, {6, 4}, {7, 5, 2, 1, true}}, 1, 2, 1, 6, 6, 1}}) {
      problem<float> p(s);
      solve_on<A>(p);
      CHECK(error_of(p) <= 1);
    }
  });
}
