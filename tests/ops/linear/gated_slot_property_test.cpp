// Identities of gated slots, and their gates at the ends of their range.
#include "ops/linear/gated_slot.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

using namespace linear_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("gates of 0 and of 1e-30 among others lose no digit of slots") {
  for (const float extreme : {-infinity, -69.0f, -104.0f, -20.0f, -1e-30f, -1e30f})
    for (const double share : {0.02, 0.5, 1.0})
      for (const index_t chunk : {1, 16, 64, 200}) {
        CAPTURE(extreme, share, chunk);
        slot_problem<float> p({1, 4, 2, 150, 12, 20, 33}, 16);
        std::bernoulli_distribution chosen(share);
        for (float& g : p.g)
          if (chosen(p.random)) g = extreme;
        CHECK(error_of<float>(
                  p, {.chunk = chunk, .initial_keys = p.initial_keys, .initial_values = p.initial_values}) <= 1);
      }
}

TEST_CASE("slots that all forget at a token start anew there") {
  for (const index_t at : {0, 1, 20, 63, 64, 99}) {
    slot_problem<float> p({1, 2, 1, 100, 12, 10, 9}), fresh({1, 2, 1, 100 - at, 12, 10, 9});
    for (index_t m = 0; m < 9; ++m) p.g(0, 0, at, m) = -infinity;
    const auto rest = [at](const auto& t) { return t.all().slice(2, at, 100); };
    heed::gated_slot_forward(rest(p.q), rest(p.k), rest(p.v), rest(std::as_const(p.s)), rest(std::as_const(p.g)),
                             fresh.out, {.final_keys = fresh.final_keys, .final_values = fresh.final_values});
    solve<float>(p, {.initial_keys = p.initial_keys, .initial_values = p.initial_values});
    CAPTURE(at);
    CHECK(error<float>(rest(std::as_const(p.out)), reference::in_double(fresh.out)) <= 1);
    CHECK(error<float>(p.final_keys, reference::in_double(fresh.final_keys)) <= 1);
    CHECK(error<float>(p.final_values, reference::in_double(fresh.final_values)) <= 1);
  }
}

TEST_CASE("with a slot for every token and gates of 1, slots are softmax attention to keys so far and keys of 0") {
  const index_t N = 70, S = 80;
  slot_problem<float> p({1, 2, 1, N, 16, 12, S});
  p.g.fill(0);
  p.s.fill(0);
  for (index_t t = 0; t < N; ++t) p.s(0, 0, t, t) = 1;
  solve(p);
  double worst = 0;
  for (index_t h = 0; h < 2; ++h)
    for (index_t t = 0; t < N; ++t) {
      std::vector<double> weight(static_cast<std::size_t>(S), 1);
      for (index_t j = 0; j <= t; ++j) {
        double score = 0;
        for (index_t d = 0; d < 16; ++d)
          score += static_cast<double>(p.q(0, h, t, d)) * static_cast<double>(p.k(0, 0, j, d));
        weight[static_cast<std::size_t>(j)] = std::exp(score / 4);
      }
      const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
      for (index_t e = 0; e < 12; ++e) {
        double expected = 0;
        for (index_t j = 0; j <= t; ++j)
          expected += weight[static_cast<std::size_t>(j)] / total * static_cast<double>(p.v(0, 0, j, e));
        worst = worse(worst, std::fabs(static_cast<double>(p.out(0, h, t, e)) - expected));
      }
    }
  CHECK(worst < 1e-5);
}

TEST_CASE("slots have no order") {
  slot_problem<float> p({2, 4, 2, 100, 12, 10, 21}), permuted({2, 4, 2, 100, 12, 10, 21});
  std::vector<index_t> order(21);
  std::iota(order.begin(), order.end(), index_t(0));
  std::shuffle(order.begin(), order.end(), p.random);
  const auto columns = [&](const tensor<float, 4>& from, tensor<float, 4>& to) {
    for (index_t i = 0; i < from.size(); ++i)
      to.data()[i / 21 * 21 + order[static_cast<std::size_t>(i % 21)]] = from.data()[i];
  };
  columns(p.s, permuted.s);
  columns(p.g, permuted.g);
  columns(p.initial_keys, permuted.initial_keys);
  for (index_t b = 0; b < 2; ++b)
    for (index_t g = 0; g < 2; ++g)
      for (index_t m = 0; m < 21; ++m)
        support::copy_into<float, 1>(p.initial_values.all()[b][g][m],
                                     permuted.initial_values.all()[b][g][order[static_cast<std::size_t>(m)]]);
  solve<float>(p, {.initial_keys = p.initial_keys, .initial_values = p.initial_values});
  solve<float>(permuted, {.initial_keys = permuted.initial_keys, .initial_values = permuted.initial_values});
  CHECK(error<float>(permuted.out, reference::in_double(p.out)) <= 1);
}

TEST_CASE("values that do not change fill the slots from 0 to their whole") {
  // out_t / c: what the slots hold, between 0 and 1, and 1 once the empty start is forgotten.
  slot_problem<float> p({1, 2, 1, 300, 12, 10, 9}, 1);
  p.v.fill(2);
  solve(p);
  for (const float x : p.out) CHECK((x >= 0 && x <= 2.00001f));
  for (index_t e = 0; e < 10; ++e) CHECK(std::fabs(p.out(0, 1, 299, e) - 2) < 1e-5f);
}

TEST_CASE("a query of 0 reads the mean of the slots, one slot is read whole whatever the query") {
  slot_problem<float> zero({1, 2, 1, 70, 12, 10, 8});
  zero.q.fill(0);
  solve(zero);
  for (index_t e = 0; e < 10; ++e) {
    double mean = 0;
    for (index_t m = 0; m < 8; ++m) mean += static_cast<double>(zero.final_values(0, 0, m, e)) / 8;
    CHECK(std::fabs(static_cast<double>(zero.out(0, 1, 69, e)) - mean) < 1e-6);
  }
  slot_problem<float> one({1, 2, 1, 70, 12, 10, 1});
  solve(one);
  for (index_t e = 0; e < 10; ++e) {
    CHECK(std::fabs(one.out(0, 0, 69, e) - one.final_values(0, 0, 0, e)) < 1e-6f);
    CHECK(one.out(0, 0, 69, e) == one.out(0, 1, 69, e));
  }
}

TEST_CASE("scores far apart stay finite") {
  for (const float factor : {100.0f, 1e4f}) {
    slot_problem<float> p({1, 2, 1, 70, 12, 10, 9});
    for (float& x : p.q) x *= factor;
    solve<float>(p, {.initial_keys = p.initial_keys, .initial_values = p.initial_values});
    for (const float x : p.out) CHECK(std::isfinite(x));
  }
}

TEST_CASE("65536 tokens stay within the bound of short sequences of slots") {
  const index_t N = support::small_grid() ? 4096 : 65536;
  for (const double tau : {1.0, 16.0}) {
    CAPTURE(tau);
    slot_problem<float> p({1, 2, 1, N, 8, 5, 6}, tau);
    CHECK(error_of<float>(p, {.initial_keys = p.initial_keys, .initial_values = p.initial_values}) <= 1);
  }
}
