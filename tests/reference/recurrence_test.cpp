#include "reference/recurrence.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using heed::index_t;
using heed::tensor;
using namespace reference;
using namespace reference_test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct shape {
  index_t B, H, G, N, M, D, E;
};
constexpr shape shapes[] = {{1, 1, 1, 1, 1, 1, 1}, {2, 4, 2, 5, 5, 3, 4}, {1, 3, 1, 4, 7, 2, 5},
                            {1, 2, 2, 6, 3, 4, 1}, {1, 2, 1, 3, 0, 2, 2}, {2, 2, 1, 0, 4, 3, 2}};

/// A scan with both gates and an initial state, and the weights of its results in an objective.
struct subject {
  explicit subject(const shape& s, index_t sequences = 0) {
    support::random_engine random(7);
    r.q = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.D}, random);
    r.k = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.D}, random);
    r.v = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.E}, random);
    r.key_gate = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.D}, random, 0.5);
    r.value_gate = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.E}, random, 0.5);
    r.scale = 0.7;
    const index_t states = sequences > 0 ? sequences : s.B;
    r.initial_state = support::normal_tensor<double, 4>({states, s.G, s.D, s.E}, random);
    dout = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.E}, random);
    dfinal = support::normal_tensor<double, 4>({states, s.G, s.D, s.E}, random);
  }

  double objective() const {
    const recurrence_result result = scan(r);
    return weighted_sum(dout, result.out) + weighted_sum(dfinal, result.final_state);
  }

  recurrence r;
  tensor<double, 4> dout, dfinal;
};

void check(subject& s) {
  const recurrence_gradients gradients = scan_backward(s.r, s.dout, s.dfinal);
  const auto objective = [&s] { return s.objective(); };
  comparison c;
  c.add(gradients.dq, differences(s.r.q, objective));
  c.add(gradients.dk, differences(s.r.k, objective));
  c.add(gradients.dv, differences(s.r.v, objective));
  c.add(gradients.dinitial_state, differences(s.r.initial_state, objective));
  if (given(s.r.key_gate)) c.add(gradients.dkey_gate, differences(s.r.key_gate, objective));
  if (given(s.r.value_gate)) c.add(gradients.dvalue_gate, differences(s.r.value_gate, objective));
  CAPTURE(c.size);
  CHECK(c.difference <= tolerance * c.size);
}

double largest_difference_of(const tensor<double, 4>& a, const tensor<double, 4>& b) {
  return largest_difference(a, std::vector<double>(b.begin(), b.end()));
}

}  // namespace

TEST_CASE("gradients of a gated recurrence are its differences") {
  for (const shape& size : shapes)
    for (const bool reverse : {false, true}) {
      CAPTURE(size.B, size.H, size.G, size.N, size.M, size.D, size.E, reverse);
      subject s(size);
      s.r.reverse = reverse;
      check(s);
      s.r.q_offset = 1;
      check(s);
      s.r.q_offset = -1;
      check(s);
      s.r.value_gate = {};
      check(s);
      s.r.key_gate = {};
      check(s);
    }
}

TEST_CASE("gradients of packed recurrences stay in their sequence") {
  for (const bool reverse : {false, true}) {
    subject s({1, 4, 2, 9, 9, 3, 2}, 4);
    s.r.cu_seqlens = {0, 4, 4, 5, 9};
    s.r.reverse = reverse;
    check(s);
    const recurrence_gradients before = scan_backward(s.r, s.dout, s.dfinal);
    s.r.k(0, 0, 4, 0) += 1;
    const recurrence_gradients after = scan_backward(s.r, s.dout, s.dfinal);
    for (index_t i = 0; i < 9; ++i) CHECK((before.dq(0, 0, i, 0) == after.dq(0, 0, i, 0)) == (i != 4));
  }
}

TEST_CASE("a gate of zero forgets all, and has no gradient") {
  subject s({1, 2, 1, 6, 6, 3, 2});
  for (index_t d = 0; d < 3; ++d) s.r.key_gate(0, 0, 4, d) = -infinity;
  check(s);
  const recurrence_result result = scan(s.r);
  s.r.k(0, 0, 3, 1) += 1;
  const recurrence_result other = scan(s.r);
  for (index_t i = 0; i < 6; ++i) CHECK((result.out(0, 1, i, 1) == other.out(0, 1, i, 1)) == (i != 3));
}

TEST_CASE("without gates a recurrence is a masked product") {
  subject s({2, 4, 2, 5, 8, 3, 2});
  s.r.key_gate = s.r.value_gate = s.r.initial_state = {};
  for (const bool reverse : {false, true}) {
    s.r.reverse = reverse;
    const recurrence_result result = scan(s.r);
    for (index_t i = 0; i < 5; ++i) {
      double expected = 0;
      for (index_t j = 0; j < 8; ++j)
        if (reverse ? j >= i + 3 : j <= i + 3)
          for (index_t d = 0; d < 3; ++d) expected += 0.7 * s.r.q(1, 3, i, d) * s.r.k(1, 1, j, d) * s.r.v(1, 1, j, 0);
      CHECK(std::fabs(result.out(1, 3, i, 0) - expected) < 1e-13);
    }
  }
}

TEST_CASE("queries before the first token get zeros, those after the last read the last state") {
  subject s({1, 1, 1, 6, 3, 2, 2});
  s.r.q_offset = -2;
  const recurrence_result result = scan(s.r);
  for (index_t i = 0; i < 2; ++i) CHECK(result.out(0, 0, i, 0) == 0);
  for (const index_t i : {4, 5}) {
    double expected = 0;
    for (index_t d = 0; d < 2; ++d) expected += 0.7 * s.r.q(0, 0, i, d) * result.final_state(0, 0, d, 1);
    CHECK(result.out(0, 0, i, 1) == expected);
  }
}

TEST_CASE("lightning attention sums powers of its decay, and its gradients are its differences") {
  subject s({2, 4, 2, 5, 5, 3, 4});
  s.r.key_gate = s.r.value_gate = {};
  support::random_engine random(3);
  s.r.initial_state = support::normal_tensor<double, 4>({2, 4, 3, 4}, random);
  s.dfinal = support::normal_tensor<double, 4>({2, 4, 3, 4}, random);
  tensor<double, 1> slope({4});
  for (index_t h = 0; h < 4; ++h) slope(h) = 0.3 * static_cast<double>(h);

  const recurrence_result result = lightning(s.r, slope);
  double expected = 0;
  for (index_t d = 0; d < 3; ++d) {
    for (index_t j = 0; j <= 3; ++j)
      expected +=
          std::exp(-0.9 * static_cast<double>(3 - j)) * s.r.q(1, 3, 3, d) * s.r.k(1, 1, j, d) * s.r.v(1, 1, j, 2);
    expected += std::exp(-0.9 * 4) * s.r.q(1, 3, 3, d) * s.r.initial_state(1, 3, d, 2);
  }
  CHECK(std::fabs(result.out(1, 3, 3, 2) - 0.7 * expected) < 1e-13);

  const recurrence_gradients gradients = lightning_backward(s.r, slope, s.dout, s.dfinal);
  const auto objective = [&] {
    const recurrence_result at = lightning(s.r, slope);
    return weighted_sum(s.dout, at.out) + weighted_sum(s.dfinal, at.final_state);
  };
  comparison c;
  c.add(gradients.dq, differences(s.r.q, objective));
  c.add(gradients.dk, differences(s.r.k, objective));
  c.add(gradients.dv, differences(s.r.v, objective));
  c.add(gradients.dinitial_state, differences(s.r.initial_state, objective));
  CHECK(c.difference <= tolerance * c.size);
}

TEST_CASE("gates of a token are gates of all its features, heads of a group copies of one") {
  support::random_engine random(5);
  const auto gate = support::normal_tensor<double, 3>({2, 3, 4}, random);
  const tensor<double, 4> all = for_every_feature(gate, 5);
  CHECK(all(1, 2, 3, 4) == gate(1, 2, 3));
  CHECK(std::fabs(sum_of_features(all)(1, 0, 2) - 5 * gate(1, 0, 2)) < 1e-14);
  const auto t = support::normal_tensor<double, 4>({2, 3, 4, 5}, random);
  const tensor<double, 4> heads = for_every_query_head(t, 6);
  CHECK(heads(1, 5, 3, 4) == t(1, 2, 3, 4));
  CHECK(heads(1, 4, 3, 4) == t(1, 2, 3, 4));
  tensor<double, 4> twice = t;
  for (double& x : twice) x *= 2;
  CHECK(largest_difference_of(sum_of_query_heads(heads, 3), twice) == 0);
}
