// Luong's attention against its definition, and what follows from the definition.
#include "ops/local/luong.hpp"
#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <algorithm>
#include <vector>

using namespace local_test;

namespace {

/// Tails of tiles and of vectors, one block of states and several, nothing.
std::vector<luong_shape> shapes() {
  if (support::small_grid()) return {{2, 29, 70, 7, 5}};
  return {{2, 29, 70, 7, 5}, {1, 60, 300, 16, 9}, {2, 1, 1, 3, 1}, {1, 0, 9, 8, 8}, {2, 9, 0, 8, 8}};
}

std::vector<luong_settings> settings_of(luong_score score) {
  if (score == luong_score::local)
    return {{.score = score, .reach = 10},
            {.score = score, .reach = 1, .padded = true},
            {.score = score, .reach = 400, .padded = true, .sigma = 30}};
  return {{.score = score},
          {.score = score, .padded = true},
          {.score = score, .reach = 4, .first_step = 3, .padded = true},
          {.score = score, .reach = 0, .first_step = 1000}};
}

template <class S>
void check_score(luong_score score) {
  for (const luong_shape& s : shapes())
    for (const luong_settings& how : settings_of(score)) {
      CAPTURE(heed::dtype_name<S>, static_cast<int>(score), s.B, s.N, s.S, s.A, s.E, how.padded, how.first_step);
      luong_problem<S> p(s, how);
      solve(p);
      CHECK(error_of(p) <= 1);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("Luong's attention and its gradients agree with the definition", "", float, double, heed::bfloat16) {
  for (const luong_score score : {luong_score::dot, luong_score::mlp, luong_score::local}) check_score<TestType>(score);
}

TEST_CASE("the gradients of Luong's definition are those of its differences") {
  for (const luong_score score : {luong_score::dot, luong_score::mlp, luong_score::local})
    for (const luong_settings& how : settings_of(score)) {
      luong_problem<double> p({2, 5, 9, 3, 4}, how);
      if (score == luong_score::local) {
        // Clear of the jumps of the window.
        for (double& x : p.positions) x = std::floor(x) + 0.5;
      }
      reference::luong_attention a = definition_of(p);
      if (score != luong_score::mlp) a.h_s = a.k;
      const reference::luong_gradients g = reference::luong_backward(a, p.dout);
      const auto loss = [&] { return reference_test::weighted_sum(p.dout, reference::luong(a).out); };
      reference_test::comparison c;
      c.add(g.dq, reference_test::differences(a.q, loss));
      c.add(g.dk, reference_test::differences(a.k, loss));
      c.add(g.dh_s, reference_test::differences(a.h_s, loss));
      if (a.v_a) c.add(g.dv_a, reference_test::differences(*a.v_a, loss));
      if (a.positions) c.add(g.dpositions, reference_test::differences(*a.positions, loss));
      CAPTURE(static_cast<int>(score));
      CHECK(c.difference <= reference_test::tolerance * (1 + c.size));
    }
}

TEST_CASE("score dot is softmax attention of scale 1 whose keys are its values") {
  luong_problem<double> p({2, 20, 150, 8, 8}, {});
  solve(p);
  for (index_t b = 0; b < 2; ++b)
    for (index_t t = 0; t < 20; ++t) {
      double total = 0, sum = 0;
      for (index_t s = 0; s < 150; ++s) {
        double z = 0;
        for (index_t d = 0; d < 8; ++d) z += p.q(b, t, d) * p.k(b, s, d);
        total += std::exp(z);
        sum += std::exp(z) * p.k(b, s, 3);
      }
      CHECK(p.out(b, t, 3) == Catch::Approx(sum / total).epsilon(1e-12));
    }
}

TEST_CASE("local-p with a window over everything and a wide Gaussian is global attention") {
  luong_problem<double> p({2, 20, 90, 8, 8}, {.score = luong_score::local, .reach = 90, .sigma = 1e9}), global = p;
  global.how = {};
  solve(p);
  solve(global);
  CHECK(linear_test::error<double, 3>(p.out, global.out) <= 1);
  CHECK(linear_test::error<double, 3>(p.dq, global.dq) <= 1);
  CHECK(linear_test::error<double, 3>(p.dh_s, global.dh_s) <= 1);
}

TEST_CASE("the weights of local-p add up to at most 1") {
  luong_problem<float> p({2, 60, 90, 8, 8}, {.score = luong_score::local, .reach = 6});
  for (index_t b = 0; b < 2; ++b)
    for (index_t s = 0; s < 90; ++s) p.h_s(b, s, 7) = 1;
  // Feature 7 counts the weights; queries must not look at it.
  for (index_t b = 0; b < 2; ++b)
    for (index_t t = 0; t < 60; ++t) p.q(b, t, 7) = 0;
  solve(p);
  for (index_t b = 0; b < 2; ++b)
    for (index_t t = 0; t < 60; ++t) {
      CHECK(p.out(b, t, 7) <= 1.0f);
      CHECK(p.out(b, t, 7) > 0.0f);
    }
}

TEST_CASE("local-m at reach 0 gives the state of the own step, and the last one once there are no more") {
  luong_problem<float> p({1, 12, 9, 8, 8}, {.reach = 0});
  solve(p);
  for (index_t t = 0; t < 12; ++t)
    for (index_t d = 0; d < 8; ++d) CHECK(p.out(0, t, d) == p.h_s(0, std::min<index_t>(t, 8), d));
}

TEST_CASE("a position that is NaN makes its row NaN, and no other") {
  luong_problem<float> p({1, 60, 300, 8, 8}, {.score = luong_score::local, .reach = 3});
  p.positions(0, 17) = quiet_nan<float>;
  solve(p);
  for (index_t t = 0; t < 60; ++t)
    for (index_t d = 0; d < 8; ++d) CHECK(std::isnan(p.out(0, t, d)) == (t == 17));
}
