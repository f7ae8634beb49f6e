#include "reference/fastmax.hpp"

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using heed::index_t;
using heed::tensor;
using namespace reference;
using namespace reference_test;

TEST_CASE("gradients of FAST are its differences") {
  struct {
    index_t B, H, G, N, M, D, E;
  } const shapes[] = {{2, 4, 2, 5, 5, 3, 4}, {1, 3, 1, 4, 7, 5, 5}, {1, 2, 2, 6, 3, 4, 1}, {1, 2, 1, 3, 0, 2, 2}};
  for (const auto& s : shapes)
    for (const fastmax_norm norm : {fastmax_norm::none, fastmax_norm::standardize, fastmax_norm::maxnorm})
      for (const int p : {1, 2})
        for (const bool causal : {false, true}) {
          CAPTURE(s.B, s.H, s.G, s.N, s.M, s.D, s.E, static_cast<int>(norm), p, causal);
          support::random_engine random(1);
          fastmax a;
          a.q = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.D}, random);
          a.k = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.D}, random);
          a.v = support::normal_tensor<double, 4>({s.B, s.G, s.M, s.E}, random);
          const auto dout = support::normal_tensor<double, 4>({s.B, s.H, s.N, s.E}, random);
          // Features that are nearly equal make a step of the deviation they are divided by.
          if (norm == fastmax_norm::standardize)
            for (auto* t : {&a.q, &a.k})
              for (double& x : *t) x *= 8;
          a.query_norms = tensor<double, 2>::full({s.B, s.H}, 3.0);
          a.key_norms = tensor<double, 2>::full({s.B, s.G}, 2.5);
          a.limit = 0.9;
          a.norm = norm;
          a.p = p;
          a.causal = causal;
          // p = 1 has weights of either sign unless products are small.
          a.tau = p == 1 ? 20 : 2;
          a.centre = s.H != 3;
          const fastmax_gradients gradients = fastmax_backward(a, dout);
          const auto objective = [&] { return weighted_sum(dout, solve_fastmax(a).out); };
          comparison c;
          c.add(gradients.dq, differences(a.q, objective));
          c.add(gradients.dk, differences(a.k, objective));
          c.add(gradients.dv, differences(a.v, objective));
          CAPTURE(c.size, c.difference);
          CHECK(c.difference <= tolerance * (1 + c.size));
        }
}

TEST_CASE("FAST with small products is softmax attention to third order, and no query is the mean of values") {
  support::random_engine random(2);
  fastmax a;
  a.q = support::normal_tensor<double, 4>({1, 1, 4, 3}, random, 0.05);
  a.k = support::normal_tensor<double, 4>({1, 1, 6, 3}, random, 0.05);
  a.v = support::normal_tensor<double, 4>({1, 1, 6, 2}, random);
  const fastmax_result r = solve_fastmax(a);
  for (index_t i = 0; i < 4; ++i) {
    double sum = 0, out[2] = {0, 0};
    for (index_t j = 0; j < 6; ++j) {
      double s = 0;
      for (index_t d = 0; d < 3; ++d) s += a.q(0, 0, i, d) * a.k(0, 0, j, d);
      sum += std::exp(s);
      for (index_t e = 0; e < 2; ++e) out[e] += std::exp(s) * a.v(0, 0, j, e);
    }
    for (index_t e = 0; e < 2; ++e) CHECK(std::fabs(r.out(0, 0, i, e) - out[e] / sum) < 1e-6);
  }
}
