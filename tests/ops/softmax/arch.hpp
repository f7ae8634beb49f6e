/// softmax_forward for every instruction set of this machine, through each of its paths.
#pragma once

#include "ops/softmax/problem.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <vector>

namespace softmax_test {

template <class S, class A>
void check_arch() {
  CAPTURE(A::name());
  using T = heed::accumulator_t<S>;
  support::random_engine random(21);
  const index_t rounds = support::small_grid() ? 6 : 24;
  for (index_t round = 0; round < rounds; ++round) {
    const auto size = [&](index_t most) { return support::draw(random, 1, most); };
    const shape s{1, 2, 1 + round % 2, size(150), size(300), size(100), size(100)};
    CAPTURE(s.N, s.M, s.D, s.E, round);
    problem<S> p(s, static_cast<unsigned>(round));
    const auto bias = support::normal_tensor<S, 4>({1, 2, s.N, s.M}, p.random);
    const auto sink = support::normal_tensor<T, 1>({2}, p.random);
    softmax_options<S> options{.lse = p.lse};
    if (round % 3 == 1) options.window_right = 0;
    if (round % 4 == 2) {
      options.window_left = size(40);
      options.window_right = size(40);
    }
    if (round % 4 == 3) options.softcap = 2;
    if (round % 5 == 4) options.bias = bias;
    if (round % 6 == 5) options.sink = sink;
    heed::detail::softmax_forward_on<A, S>(p.q, p.k, p.v, p.out, options);
    CHECK(worst_error(p, reference::softmax<S>(p.q, p.k, p.v, arguments_of<S>(options))) <= 1);
  }
}

template <class S>
void check_every_arch() {
  support::for_each_arch([](auto arch) { check_arch<S, decltype(arch)>(); });
}

}  // namespace softmax_test
