/// softmax_forward on the instruction sets of this machine, through each of its paths.
#pragma once

#include "ops/softmax/option_rounds.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

namespace softmax_test {

template <class S, class A>
void check_arch() {
  CAPTURE(A::name());
  const index_t rounds = support::small_grid() ? 6 : 24;
  for_each_option<problem<S>, softmax_options<S>>(
      rounds, {.N = 150, .M = 300, .D = 100, .E = 100}, 21, [](problem<S>& p, softmax_options<S> options, index_t) {
        options.lse = p.lse;
        heed::detail::softmax_forward_on<A, S>(p.q, p.k, p.v, p.out, options);
        CHECK(worst_error(p, reference::softmax<S>(p.q, p.k, p.v, arguments_of<S>(options))) <= 1);
      });
}

template <class S>
void check_distinct_arches() {
  support::for_each_distinct_arch([](auto arch) { check_arch<S, decltype(arch)>(); });
}

}  // namespace softmax_test
