// Gates at the ends of their range, and sequences that are long.
#include "ops/linear/gated.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <limits>

using namespace linear_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// A share of the gates becomes `value`.
void replace_some(tensor<float, 4>& gates, double share, float value, support::random_engine& random) {
  std::bernoulli_distribution chosen(share);
  for (float& g : gates)
    if (chosen(random)) g = value;
}
void replace_some(tensor<float, 3>& gates, double share, float value, support::random_engine& random) {
  std::bernoulli_distribution chosen(share);
  for (float& g : gates)
    if (chosen(random)) g = value;
}

bool all_zero(const tensor<float, 4>& t) {
  return std::all_of(t.begin(), t.end(), [](float x) { return x == 0; });
}

}  // namespace

TEST_CASE("gates of 0 and of 1e-30 among others lose no digit") {
  for (const gates kind : gate_kinds)
    for (const float extreme : {-infinity, -69.0f, -104.0f, -20.0f, -1e-30f, -1e30f})
      for (const double share : {0.02, 0.5, 1.0})
        for (const index_t chunk : {1, 16, 64, 200}) {
          CAPTURE(static_cast<int>(kind), extreme, share, chunk);
          problem<float> p({1, 4, 2, 150, 33, 20}, 16);
          replace_some(p.feature_gates, share, extreme, p.random);
          replace_some(p.token_gates, share, extreme, p.random);
          CHECK(error_of<float>(p, kind, {.chunk = chunk, .initial_state = p.initial_state}) <= 1);
        }
}

TEST_CASE("gates of 1 between gates of 1e-30: products recover none of what was lost") {
  // Runs of ones behind every tiny gate, so that a quotient of products would be 1e-30 / 1e-30.
  for (const gates kind : gate_kinds) {
    problem<float> p({1, 2, 1, 200, 16, 16});
    p.feature_gates.fill(0);
    p.token_gates.fill(0);
    replace_some(p.feature_gates, 0.05, -69.0f, p.random);
    replace_some(p.token_gates, 0.05, -69.0f, p.random);
    CHECK(error_of<float>(p, kind, {.initial_state = p.initial_state}) <= 1);
  }
}

TEST_CASE("gates above 1 follow the formula") {
  for (const gates kind : gate_kinds) {
    problem<float> p({1, 4, 2, 150, 33, 20});
    for (float& g : p.feature_gates) g = 0.1f + 0.2f * g;
    for (float& g : p.token_gates) g = 0.1f + 0.2f * g;
    CHECK(error_of<float>(p, kind, {.initial_state = p.initial_state}) <= 1);
  }
}

TEST_CASE("what a gate of 0 forgets is gone: the rest is a run of its own") {
  for (const gates kind : gate_kinds)
    for (const index_t at : {0, 1, 20, 63, 64, 99}) {
      problem<float> p({1, 2, 1, 100, 12, 10}), fresh({1, 2, 1, 100 - at, 12, 10});
      for (index_t d = 0; d < 12; ++d) p.feature_gates(0, 0, at, d) = -infinity;
      p.token_gates(0, 0, at) = -infinity;
      const auto rest = [at](const auto& t) { return t.all().slice(2, at, 100); };
      if (kind == gates::feature)
        heed::gated_linear_forward(rest(p.q), rest(p.k), rest(p.v), rest(std::as_const(p.feature_gates)), fresh.out,
                                   {.final_state = fresh.final_state});
      else
        heed::gated_linear_forward(rest(p.q), rest(p.k), rest(p.v), rest(std::as_const(p.token_gates)), fresh.out,
                                   {.final_state = fresh.final_state});
      // Whatever the past was, however large.
      for (float& x : p.initial_state) x *= 1e30f;
      solve<float>(p, kind, {.initial_state = p.initial_state});
      CAPTURE(static_cast<int>(kind), at);
      CHECK(error<float>(rest(std::as_const(p.out)), reference::in_double(fresh.out)) <= 1);
      CHECK(error<float>(p.final_state, reference::in_double(fresh.final_state)) <= 1);
    }
}

TEST_CASE("gates of 0 everywhere leave every token its own write") {
  for (const gates kind : gate_kinds) {
    problem<float> p({1, 2, 1, 70, 8, 9});
    p.feature_gates.fill(-infinity);
    p.token_gates.fill(-infinity);
    CHECK(error_of<float>(p, kind, {.initial_state = p.initial_state}) <= 1);
    double worst = 0;
    for (index_t t = 0; t < 70; ++t) {
      double score = 0;
      for (index_t d = 0; d < 8; ++d)
        score += static_cast<double>(p.q(0, 1, t, d)) * static_cast<double>(p.k(0, 0, t, d));
      for (index_t e = 0; e < 9; ++e)
        worst = worse(worst, std::fabs(static_cast<double>(p.out(0, 1, t, e)) -
                                       score / std::sqrt(8.0) * static_cast<double>(p.v(0, 0, t, e))));
    }
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("queries, keys or values of 0 give exact zeros") {
  for (const gates kind : gate_kinds)
    for (tensor<float, 4> problem<float>::* const input :
         {&problem<float>::q, &problem<float>::k, &problem<float>::v}) {
      problem<float> p({2, 4, 2, 70, 9, 8}, 0.5);
      (p.*input).fill(0);
      solve(p, kind);
      CHECK(all_zero(p.out));
      CHECK(all_zero(p.final_state) == (input != &problem<float>::q));
    }
}

TEST_CASE("a state that fades below the normal range fades to 0, and slows nothing down") {
  for (const gates kind : gate_kinds) {
    problem<float> p({1, 1, 1, 400, 8, 8});
    p.k.fill(0);
    p.feature_gates.fill(-1);
    p.token_gates.fill(-1);
    CHECK(error_of<float>(p, kind, {.initial_state = p.initial_state}) <= 1);
    CHECK(all_zero(p.final_state));
  }
}

TEST_CASE("65536 tokens stay within the bound of short sequences") {
  const index_t N = support::small_grid() ? 4096 : 65536;
  for (const gates kind : gate_kinds)
    for (const double tau : {0.5, 16.0, 1000.0}) {
      CAPTURE(static_cast<int>(kind), tau);
      problem<float> p({1, 2, 1, N, 8, 5}, tau);
      CHECK(error_of<float>(p, kind, {.initial_state = p.initial_state}) <= 1);
    }
}
