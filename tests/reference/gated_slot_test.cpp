#include "reference/gated_slot.hpp"

#include <cmath>
#include <vector>

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using heed::index_t;
using heed::tensor;
using namespace reference;
using namespace reference_test;

namespace {

struct shape {
  index_t B, H, G, N, D, E, S;
};
constexpr shape shapes[] = {
    {1, 1, 1, 1, 1, 1, 1}, {2, 4, 2, 5, 3, 4, 3}, {1, 3, 1, 7, 2, 5, 4}, {1, 2, 2, 4, 3, 2, 1}, {2, 2, 1, 0, 3, 2, 2}};

gated_slots problem(const shape& s, index_t states, support::random_engine& random) {
  gated_slots a;
  a.q = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.D}, random);
  a.k = support::normal_tensor<double, 4>({s.B, s.G, s.N, s.D}, random);
  a.v = support::normal_tensor<double, 4>({s.B, s.G, s.N, s.E}, random);
  a.s = support::normal_tensor<double, 4>({s.B, s.G, s.N, s.S}, random);
  a.g = support::normal_tensor<double, 4>({s.B, s.G, s.N, s.S}, random, 0.5);
  a.scale = 0.7;
  a.initial_keys = support::normal_tensor<double, 4>({states, s.G, s.D, s.S}, random);
  a.initial_values = support::normal_tensor<double, 4>({states, s.G, s.S, s.E}, random);
  return a;
}

void check(gated_slots a, support::random_engine& random) {
  const gated_slot_result result = gated_slot(a);
  const auto like = [&random](const tensor<double, 4>& t) {
    return support::normal_tensor<double, 4>({t.extent(0), t.extent(1), t.extent(2), t.extent(3)}, random);
  };
  const tensor<double, 4> dout = like(result.out), dkeys = like(result.final_keys), dvalues = like(result.final_values);
  const gated_slot_gradients gradients = gated_slot_backward(a, dout, dkeys, dvalues);
  const auto objective = [&] {
    const gated_slot_result at = gated_slot(a);
    return weighted_sum(dout, at.out) + weighted_sum(dkeys, at.final_keys) + weighted_sum(dvalues, at.final_values);
  };
  comparison c;
  c.add(gradients.dq, differences(a.q, objective));
  c.add(gradients.dk, differences(a.k, objective));
  c.add(gradients.dv, differences(a.v, objective));
  c.add(gradients.ds, differences(a.s, objective));
  c.add(gradients.dg, differences(a.g, objective));
  c.add(gradients.dinitial_keys, differences(a.initial_keys, objective));
  c.add(gradients.dinitial_values, differences(a.initial_values, objective));
  CAPTURE(c.size);
  CHECK(c.difference <= tolerance * c.size);
}

bounded_memory bounded_problem(const shape& s, support::random_engine& random) {
  const gated_slots a = problem(s, s.B, random);
  return {a.q, a.k, a.v, a.s, 0.7};
}

}  // namespace

TEST_CASE("gradients of gated slots are their differences") {
  support::random_engine random(1);
  for (const shape& s : shapes) {
    CAPTURE(s.B, s.H, s.G, s.N, s.D, s.E, s.S);
    check(problem(s, s.B, random), random);
  }
  gated_slots packed = problem({1, 2, 1, 9, 3, 2, 4}, 4, random);
  packed.cu_seqlens = {0, 3, 3, 8, 9};
  check(packed, random);
}

TEST_CASE("gated slots hold one token each where gates are 1 and every token has a slot") {
  support::random_engine random(2);
  gated_slots a = problem({1, 1, 1, 4, 3, 2, 5}, 1, random);
  a.initial_keys = a.initial_values = {};
  a.g.fill(0);
  a.s.fill(0);
  for (index_t t = 0; t < 4; ++t) a.s(0, 0, t, t) = 1;
  const gated_slot_result result = gated_slot(a);
  for (index_t t = 0; t < 4; ++t) {
    // Softmax over the keys so far and 4 - t keys of zero, with values of zero.
    double total = static_cast<double>(4 - t), sum = 0;
    for (index_t j = 0; j <= t; ++j) {
      double score = 0;
      for (index_t d = 0; d < 3; ++d) score += 0.7 * a.q(0, 0, t, d) * a.k(0, 0, j, d);
      total += std::exp(score);
      sum += std::exp(score) * a.v(0, 0, j, 1);
    }
    CHECK(std::fabs(result.out(0, 0, t, 1) - sum / total) < 1e-13);
  }
}

TEST_CASE("bounded memory is gated slots, and its gradients are its differences") {
  support::random_engine random(3);
  for (const shape& s : shapes) {
    CAPTURE(s.B, s.H, s.G, s.N, s.D, s.E, s.S);
    bounded_memory a = bounded_problem(s, random);
    const tensor<double, 4> out = bounded_memory_attention(a), other = gated_slot(as_gated_slots(a)).out;
    CHECK(largest_difference(out, std::vector<double>(other.begin(), other.end())) < 1e-12);

    const auto dout = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.E}, random);
    const bounded_memory_gradients gradients = bounded_memory_backward(a, dout);
    const auto objective = [&] { return weighted_sum(dout, bounded_memory_attention(a)); };
    comparison c;
    c.add(gradients.dq, differences(a.q, objective));
    c.add(gradients.dk, differences(a.k, objective));
    c.add(gradients.dv, differences(a.v, objective));
    c.add(gradients.ds, differences(a.s, objective));
    CAPTURE(c.size);
    // With one slot the score does not matter, and dq and dk are the rounding of 0.
    CHECK(c.difference <= tolerance * c.size);
  }
}
