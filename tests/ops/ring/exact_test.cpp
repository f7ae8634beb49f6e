#include "ops/ring/ring.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

using namespace ring_test;

namespace {

using problem = backward_problem<double>;
using options = softmax_backward_options<double>;

/// Solves a problem of these extents over ranks.
double error_of(const softmax_test::shape& s, deal q, deal kv, int ranks, options o) {
  problem p(s, static_cast<unsigned>(7 * ranks + s.N));
  ring_run run{deal_out(q, s.N, ranks), deal_out(kv, s.M, ranks)};
  if (o.dlse) o.dlse = p.dlse;
  return ring_error(p, run, o, softmax_test::arguments_of<double>(o));
}

}  // namespace

TEST_CASE("ranks that deal out tokens in any way agree with the definition, gradients too") {
  index_t round = 0;
  for (int ranks = 1; ranks <= (support::small_grid() ? 3 : 8); ++ranks)
    for (const index_t N : {1, 3, ranks - 1, 17, 64})
      for (const deal how : all_deals) {
        if (N == 0) continue;
        const index_t G = round % 3 == 0 ? 4 : round % 3 == 1 ? 2 : 1;
        const bool causal = round % 2 == 0;
        ++round;
        CAPTURE(ranks, N, int(how), G, causal);
        CHECK(error_of({1, 4, G, N, N, 5, 3}, how, how, ranks, {.window_right = causal ? 0 : -1}) <= 1);
      }
}

TEST_CASE("queries and keys may be of different lengths and dealt out differently, ranks may have none") {
  index_t round = 0;
  const tensor<double, 3> some({1, 1, 1});
  for (const int ranks : {2, 3, 5})
    for (const auto& [N, M] : {std::pair<index_t, index_t>{9, 50}, {50, 9}, {2, 130}, {40, 3}, {0, 7}, {7, 0}}) {
      const deal q = all_deals[round % 5], kv = all_deals[(round / 2 + 1) % 5];
      options o{.dlse = some, .window_right = round % 2 == 0 ? 0 : -1};
      if (round % 3 == 1) o.q_offset = 3;
      if (round % 4 == 1) o.kv_offset = -2;
      ++round;
      CAPTURE(ranks, N, M, int(q), int(kv));
      CHECK(error_of({2, 2, 1, N, M, 7, 9}, q, kv, ranks, o) <= 1);
    }
}

TEST_CASE("windows are windows of positions, and end the ring early") {
  for (const deal how : all_deals)
    for (const index_t left : {0, 5, 40}) {
      CAPTURE(int(how), left);
      CHECK(error_of({1, 2, 2, 90, 90, 5, 3}, how, how, 4, {.window_left = left, .window_right = 0}) <= 1);
      CHECK(error_of({1, 2, 2, 90, 90, 5, 3}, how, how, 4, {.window_left = left, .window_right = 7}) <= 1);
    }
}

TEST_CASE("sinks count once, softcaps and biases for every pair") {
  using softmax_test::arguments_of;
  for (const deal how : all_deals)
    for (const bool rows : {true, false}) {
      const index_t N = 40, M = 150;
      problem p({2, 4, 2, N, M, 6, 5}, 3);
      const auto sink = support::normal_tensor<double, 1>({4}, p.random);
      auto bias = support::normal_tensor<double, 4>({1, 4, rows ? N : 1, M}, p.random);
      bias(0, 1, 0, 3) = -std::numeric_limits<double>::infinity();
      auto dbias = tensor<double, 4>::full({1, 4, N, M}, support::quiet_nan<double>);
      options o{.softcap = 3, .bias = bias, .sink = sink, .window_right = 2};
      if (rows) o.dbias = dbias;
      ring_run run{deal_out(how, N, 3), deal_out(how, M, 3)};
      CAPTURE(int(how), rows);
      CHECK(ring_error(p, run, o, arguments_of<double>(o)) <= 1);
    }
}

TEST_CASE("one rank gives the bits of softmax_forward and softmax_backward, and uses no transport") {
  for (const index_t window : {-1, 30}) {
    problem alone({2, 4, 2, 130, 170, 9, 20}), ring({2, 4, 2, 130, 170, 9, 20});
    const auto sink = support::normal_tensor<double, 1>({4}, alone.random);
    options o{.sink = sink, .window_left = window, .window_right = 0};
    ring_run run{deal_out(deal::zigzag, 130, 1), deal_out(deal::contiguous, 170, 1)};
    o.dsink = ring.dsink;
    solve_ring(ring, run, o);
    o.dsink = alone.dsink;
    softmax_test::solve<double>(alone, o);
    CHECK(same_results(ring, alone));
    CHECK(run.sent[0].empty());
    CHECK(run.calls[0] == 0);
  }
}

TEST_CASE("keys of other ranks that no query sees may hold anything") {
  // Of 60 keys the first 20 are within reach of the 30 queries at 0.
  const softmax_test::shape s{1, 2, 1, 20, 60, 5, 3};
  for (const deal how : all_deals) {
    problem clean(s), poisoned(s);
    for (index_t j = 20; j < 60; ++j) {
      std::fill_n(&poisoned.k(0, 0, j, 0), 5, support::quiet_nan<double>);
      std::fill_n(&poisoned.v(0, 0, j, 0), 3, support::quiet_nan<double>);
    }
    options o{.window_right = 0, .q_offset = 0};
    ring_run run{deal_out(how, 20, 3), deal_out(how, 60, 3)};
    solve_ring(clean, run, o);
    solve_ring(poisoned, run, o);
    CAPTURE(int(how));
    CHECK(same_results(clean, poisoned));
  }
}
