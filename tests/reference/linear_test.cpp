#include "reference/linear.hpp"

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
  index_t B, H, G, N, M, D, E;
};
constexpr shape shapes[] = {{1, 1, 1, 1, 1, 1, 1}, {2, 4, 2, 5, 5, 3, 4}, {1, 3, 1, 4, 7, 2, 5},
                            {1, 2, 2, 6, 3, 4, 1}, {1, 2, 1, 3, 0, 2, 2}, {2, 2, 1, 0, 4, 3, 2}};

/// Away from 0, where feature maps have a kink that differences would step over.
tensor<double, 4> smooth_tensor(const index_t (&extents)[4], support::random_engine& random) {
  tensor<double, 4> t = support::normal_tensor<double, 4>(extents, random);
  for (double& x : t) x += x < 0 ? -0.01 : 0.01;
  return t;
}

linear_attention problem(const shape& s, support::random_engine& random) {
  linear_attention a;
  a.q = smooth_tensor({s.B, s.H, s.N, s.D}, random);
  a.k = smooth_tensor({s.B, s.G, s.M, s.D}, random);
  a.v = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.E}, random);
  a.scale = 0.7;
  return a;
}

/// Positive sums of earlier keys, as those of features are.
void add_history(linear_attention& a, index_t states, support::random_engine& random) {
  a.initial_state = support::normal_tensor<double, 4>({states, a.k.extent(1), a.k.extent(3), a.v.extent(3)}, random);
  a.initial_sum = support::normal_tensor<double, 3>({states, a.k.extent(1), a.k.extent(3)}, random);
  for (double& x : a.initial_sum) x = 1 + std::fabs(x);
}

void check(linear_attention& a, support::random_engine& random) {
  const auto dout =
      support::normal_tensor<double, 4>({a.q.extent(0), a.q.extent(1), a.q.extent(2), a.v.extent(3)}, random);
  const linear_gradients gradients = linear_backward(a, linear(a).out, dout);
  const auto objective = [&] { return weighted_sum(dout, linear(a).out); };
  comparison c;
  c.add(gradients.dq, differences(a.q, objective));
  c.add(gradients.dk, differences(a.k, objective));
  c.add(gradients.dv, differences(a.v, objective));
  CAPTURE(c.size);
  CHECK(c.difference <= tolerance * c.size);
}

}  // namespace

TEST_CASE("gradients of linear attention are its differences") {
  for (const shape& s : shapes)
    for (const feature_map map : feature_maps)
      for (const bool normalise : {false, true})
        for (const bool causal : {false, true}) {
          // A sum of features of either sign may be close to 0, and those of relu 0.
          if (normalise && map == feature_map::identity) continue;
          CAPTURE(s.B, s.H, s.G, s.N, s.M, s.D, s.E, static_cast<int>(map), normalise, causal);
          support::random_engine random(1);
          linear_attention a = problem(s, random);
          a.map = map;
          a.normalise = normalise;
          a.causal = causal;
          a.eps = 3;  // near a divisor of 0 differences are wrong
          check(a, random);
          add_history(a, s.B, random);
          check(a, random);
        }
}

TEST_CASE("gradients of packed linear attention stay in their sequence") {
  support::random_engine random(2);
  for (const bool causal : {false, true}) {
    linear_attention a = problem({1, 4, 2, 9, 9, 3, 2}, random);
    a.cu_seqlens = {0, 4, 4, 5, 9};
    a.causal = causal;
    check(a, random);
    add_history(a, 4, random);
    check(a, random);
  }
}

TEST_CASE("identity, causal and unnormalised, linear attention is the recurrence without gates") {
  support::random_engine random(3);
  for (const shape& s : shapes) {
    linear_attention a = problem(s, random);
    a.map = feature_map::identity;
    a.normalise = false;
    a.causal = true;
    recurrence r;
    r.q = a.q;
    r.k = a.k;
    r.v = a.v;
    r.scale = a.scale;
    const linear_result got = linear(a);
    const recurrence_result expected = scan(r);
    CHECK(largest_difference(got.out, std::vector<double>(expected.out.begin(), expected.out.end())) < 1e-12);
    CHECK(largest_difference(got.final_state,
                             std::vector<double>(expected.final_state.begin(), expected.final_state.end())) < 1e-12);
  }
}

TEST_CASE("normalised without eps, values that do not depend on the key are the output") {
  support::random_engine random(4);
  for (const feature_map map : {feature_map::elu_plus_one, feature_map::exp, feature_map::softmax})
    for (const bool causal : {false, true}) {
      linear_attention a = problem({1, 2, 1, 5, 5, 3, 2}, random);
      a.v.fill(1.25);
      a.map = map;
      a.causal = causal;
      a.eps = 0;
      for (const double x : linear(a).out) CHECK(std::fabs(x - 1.25) < 1e-14);
    }
}
