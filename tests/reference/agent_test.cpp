#include "reference/agent.hpp"

#include <cmath>
#include <vector>

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using heed::index_t;
using heed::tensor;
using reference::agent_attention;
using namespace reference_test;

namespace {

struct subject {
  subject() : random(3) {
    x.q = support::normal_tensor<double, 4>({2, 4, 5, 3}, random);
    x.a = support::normal_tensor<double, 4>({2, 4, 3, 3}, random);
    x.k = support::normal_tensor<double, 4>({2, 2, 7, 3}, random);
    x.v = support::normal_tensor<double, 4>({2, 2, 7, 2}, random);
    dout = support::normal_tensor<double, 4>({2, 4, 5, 2}, random);
    agent_bias = support::normal_tensor<double, 4>({1, 4, 3, 7}, random);
    query_bias = support::normal_tensor<double, 4>({1, 4, 5, 3}, random);
    x.scale = 0.7;
    x.agent_scale = -0.4;
    x.agent_bias = [this](int, int h, index_t i, index_t j) { return agent_bias(0, h, i, j); };
    x.query_bias = [this](int, int h, index_t i, index_t j) { return query_bias(0, h, i, j); };
    x.agent_bias_extents = {1, 4, 3, 7};
    x.query_bias_extents = {1, 4, 5, 3};
    x.kv_lengths = {7, 4};
  }
  subject(const subject&) = delete;

  support::random_engine random;
  agent_attention x;
  tensor<double, 4> dout, agent_bias, query_bias;
};

}  // namespace

TEST_CASE("the reference of agent attention is two softmaxes, written out") {
  const subject s;
  const auto result = reference::agent(s.x);
  for (int b = 0; b < 2; ++b)
    for (int h = 0; h < 4; ++h) {
      std::vector<double> gathered, denominators;
      for (index_t l = 0; l < 3; ++l) {
        double total = 0, sum[2] = {};
        for (index_t j = 0; j < (b == 0 ? 7 : 4); ++j) {
          double z = s.agent_bias(0, h, l, j);
          for (index_t d = 0; d < 3; ++d) z += 0.7 * s.x.a(b, h, l, d) * s.x.k(b, h / 2, j, d);
          total += std::exp(z);
          for (index_t e = 0; e < 2; ++e) sum[e] += std::exp(z) * s.x.v(b, h / 2, j, e);
        }
        CHECK(result.agent_lse(b, h, l) == Catch::Approx(std::log(total)));
        for (const double x : sum) gathered.push_back(x / total);
      }
      for (index_t i = 0; i < 5; ++i) {
        double total = 0, sum[2] = {};
        for (index_t l = 0; l < 3; ++l) {
          double z = s.query_bias(0, h, i, l);
          for (index_t d = 0; d < 3; ++d) z += -0.4 * s.x.q(b, h, i, d) * s.x.a(b, h, l, d);
          total += std::exp(z);
          for (index_t e = 0; e < 2; ++e) sum[e] += std::exp(z) * gathered[static_cast<std::size_t>(2 * l + e)];
        }
        for (index_t e = 0; e < 2; ++e) CHECK(result.out(b, h, i, e) == Catch::Approx(sum[e] / total));
      }
    }
}

TEST_CASE("gradients of the reference of agent attention are its differences") {
  subject s;
  const auto objective = [&] { return weighted_sum(s.dout, reference::agent(s.x).out); };
  const auto g = reference::agent_backward(s.x, s.dout);
  comparison c;
  c.add(g.dq, differences(s.x.q, objective));
  c.add(g.da, differences(s.x.a, objective));
  c.add(g.dk, differences(s.x.k, objective));
  c.add(g.dv, differences(s.x.v, objective));
  c.add(g.dagent_bias, differences(s.agent_bias, objective));
  c.add(g.dquery_bias, differences(s.query_bias, objective));
  CHECK(c.difference <= tolerance * c.size);
}
