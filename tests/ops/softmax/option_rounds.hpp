/// Problems of shapes drawn at random, each with other options of a call.
#pragma once

#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"

namespace softmax_test {

/// Calls check(p, options, round) for problems with lengths and head sizes from 1 to those of `most`. The options that
/// forward and backward share come in turn. Problem: problem or backward_problem; Options: what its call takes.
template <class Problem, class Options, class Check>
void for_each_option(index_t rounds, const shape& most, unsigned seed, const Check& check) {
  using S = typename Problem::storage;
  using T = typename Problem::accumulator;
  support::random_engine random(seed);
  const auto size = [&](index_t largest) { return support::draw(random, 1, largest); };
  for (index_t round = 0; round < rounds; ++round) {
    const shape s{1, 2, 1 + round % 2, size(most.N), size(most.M), size(most.D), size(most.E)};
    CAPTURE(s.N, s.M, s.D, s.E, round);
    Problem p(s, static_cast<unsigned>(round));
    const auto bias = support::normal_tensor<S, 4>({1, 2, s.N, s.M}, p.random);
    const auto sink = support::normal_tensor<T, 1>({2}, p.random);
    Options options{};
    if (round % 3 == 1) options.window_right = 0;
    if (round % 4 == 2) {
      options.window_left = size(40);
      options.window_right = size(40);
    }
    if (round % 4 == 3) options.softcap = 2;
    if (round % 5 == 4) options.bias = bias;
    if (round % 6 == 5) options.sink = sink;
    check(p, options, round);
  }
}

}  // namespace softmax_test
