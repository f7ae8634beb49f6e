#include "ops/ring/ring.hpp"
#include "support/catch.hpp"

#include <heed/mod/compose.hpp>
#include <heed/mod/document.hpp>
#include <heed/mod/masks.hpp>
#include <heed/mod/parametric.hpp>
#include <heed/mod/score.hpp>

using namespace ring_test;

namespace {

using problem = backward_problem<double>;
using options = softmax_backward_options<double>;

/// A mod with two parameters, and a place for their gradients on each rank.
struct tilted {
  tensor<double, 1> weights;
  tensor<double, 2>& gradients;

  auto of_rank(int rank) const {
    return heed::with_parameters<2>(
        [](auto s, auto at, const auto& w) { return s - w[0] * heed::to_real(s, at.q - at.kv) + w[1] * s; }, weights,
        gradients.all()[rank]);
  }
};

}  // namespace

TEST_CASE("masks and score mods see global positions, and what they learn is summed over ranks") {
  const index_t N = 60, M = 75;
  std::vector<std::int32_t> ids;
  for (int i = 0; i < M; ++i) ids.push_back(i / 17);
  const auto mask = heed::causal{} & heed::document{ids};
  tensor<double, 2> gradients({5, 2});
  tilted mod{tensor<double, 1>({2}), gradients};
  mod.weights(0) = 0.3;
  mod.weights(1) = 0.02;
  for (const deal how : all_deals)
    for (const int ranks : {1, 2, 5}) {
      problem p({2, 2, 1, N, M, 6, 5}, 5);
      tensor<double, 2> table = support::normal_tensor<double, 2>({1, 9}, p.random);
      const options o{.sink = {}, .window_left = 40};
      ring_run run{deal_out(how, N, ranks), deal_out(how == deal::listed ? deal::striped : how, M, ranks)};
      reference::softmax_arguments arguments = softmax_test::arguments_of<double>(o);
      softmax_test::add_mod(arguments, mask);
      reference::append_score(
          arguments, {.value = [&](double s, int, int, int q, int t) { return s - 0.3 * (q - t) + 0.02 * s; },
                      .slope = [](double, int, int, int, int) { return 1.02; },
                      .partial = [](int n, double s, int, int, int q, int t) { return n == 0 ? -double(q - t) : s; },
                      .parameters = 2,
                      .gain = 1.02,
                      .curvature = 1});
      gradients.fill(support::quiet_nan<double>);
      CAPTURE(int(how), ranks);
      CHECK(ring_error(p, run, o, arguments, mask, mod) <= 1);
      const auto expected = reference::softmax_backward<double>(p.q, p.k, p.v, p.dout, {}, arguments);
      for (int r = 0; r < ranks; ++r)
        for (std::size_t n = 0; n < 2; ++n) {
          CHECK(std::fabs(gradients(r, index_t(n)) - expected.dscore[n]) <= 0x1p-52 * expected.dscore_noise[n]);
          CHECK(gradients(r, index_t(n)) == gradients(0, index_t(n)));
        }
    }
}

TEST_CASE("mods that are called lane by lane, and tables that mods accumulate") {
  const index_t N = 50;
  support::random_engine random(2);
  const auto table = support::normal_tensor<double, 2>({2, 21}, random);
  const auto spelled = [](double s, heed::position at) { return s + 0.01 * (at.kv % 5); };
  const auto odd = [](heed::position at) { return (at.q + at.kv) % 3 != 0; };
  problem p({1, 2, 2, N, N, 6, 5}, 6);
  const heed::relative_bias<double> relative(table);
  reference::softmax_arguments arguments;
  softmax_test::add_mod(arguments, odd);
  softmax_test::add_mod(arguments, relative);
  softmax_test::add_mod(arguments, spelled);
  for (const deal how : all_deals) {
    const owned_layout l = deal_out(how, N, 3);
    heed::in_process_group group(3, 60);
    group.run([&](heed::in_process_transport& ranks) {
      shard<double> own(p, l.layout, l.layout, ranks.rank());
      heed::ring_forward(ranks, own.q, own.k, own.v, own.out,
                         {.layout = l.layout, .lse = own.lse, .executor = heed::serial()}, odd, relative, spelled);
      heed::from_layout(own.out, p.out, l.layout, ranks.rank());
      heed::from_layout(own.lse, p.lse, l.layout, ranks.rank());
    });
    CAPTURE(int(how));
    CHECK(softmax_test::worst_error(p, reference::softmax<double>(p.q, p.k, p.v, arguments)) <= 1);
  }

  // The table's gradient, of each rank's queries, adds up to that of one process.
  tensor<double, 2> all({2, 21}), parts({2, 21});
  softmax_test::solve<double>(p, {}, odd, heed::relative_bias<double>(table, all.all()));
  const owned_layout l = deal_out(deal::zigzag, N, 3);
  heed::in_process_group group(3, 60);
  std::mutex one;
  group.run([&](heed::in_process_transport& ranks) {
    shard<double> own(p, l.layout, l.layout, ranks.rank());
    tensor<double, 2> mine({2, 21});
    const heed::relative_bias<double> mod(table, mine.all());
    heed::ring_forward(ranks, own.q, own.k, own.v, own.out,
                       {.layout = l.layout, .lse = own.lse, .executor = heed::serial()}, odd, mod);
    heed::ring_backward(ranks, own.q, own.k, own.v, own.out, own.lse, own.dout, own.dq, own.dk, own.dv,
                        {.layout = l.layout, .executor = heed::serial()}, odd, mod);
    const std::lock_guard<std::mutex> lock(one);
    for (index_t i = 0; i < parts.size(); ++i) parts.data()[i] += mine.data()[i];
  });
  for (index_t i = 0; i < parts.size(); ++i)
    CHECK(parts.data()[i] == Approx(all.data()[i]).epsilon(1e-11).margin(1e-12));
}
