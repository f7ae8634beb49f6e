// Every mask and every score mod that heed has, over 1 to 8 ranks and every layout, and with keys that come in blocks,
// against the definition.
#include "ops/ring/any_mod.hpp"
#include "ops/ring/ring.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/refusal.hpp"

#include <heed/mod.hpp>
#include <heed/ops/ring/blockwise.hpp>

using namespace ring_test;

namespace {

using problem = backward_problem<double>;
using options = softmax_backward_options<double>;

/// Queries stand at the last 37 of 53 positions.
constexpr index_t N = 37, M = 53;

/// The same options of a call whose keys come in blocks.
heed::blockwise_options<double> block_options(const options& o) {
  heed::blockwise_options<double> b;
  b.window_left = o.window_left;
  b.window_right = o.window_right;
  b.q_offset = M - N;
  return b;
}

/// Solves one problem under a mod over ranks of every number and layout, and block by block.
template <class Mod>
void check_everywhere(const char* name, const options& o, const reference::softmax_arguments& arguments,
                      const Mod& mod) {
  problem p({2, 2, 1, N, M, 3, 4}, 11);
  const auto expected = reference::softmax<double>(p.q, p.k, p.v, arguments);
  const auto gradients = reference::softmax_backward<double>(p.q, p.k, p.v, p.dout, {}, arguments);
  for (int ranks = 1; ranks <= 8; ++ranks)
    for (const deal how : all_deals) {
      if (support::small_grid() && ranks != 3) continue;
      // Queries and keys dealt out alike and, every other time, differently.
      const deal keys = all_deals[(static_cast<int>(how) + ranks % 2) % 5];
      ring_run run{deal_out(how, N, ranks), deal_out(keys, M, ranks)};
      p.out.fill(support::quiet_nan<double>);
      p.dq.fill(support::quiet_nan<double>);
      p.dk.fill(support::quiet_nan<double>);
      p.dv.fill(support::quiet_nan<double>);
      solve_ring(p, run, o, mod);
      CAPTURE(name, ranks, int(how), int(keys));
      CHECK(support::worse(softmax_test::worst_error(p, expected), softmax_test::worst_error(p, gradients, N, M)) <= 1);
    }

  std::vector<heed::key_value_block<double>> blocks;
  for (const auto& [begin, end] : {std::pair<index_t, index_t>{0, 20}, {20, 21}, {21, M}})
    blocks.push_back({p.k.all().slice(2, begin, end), p.v.all().slice(2, begin, end)});
  p.out.fill(support::quiet_nan<double>);
  heed::blockwise_options<double> b = block_options(o);
  b.lse = p.lse;
  heed::blockwise_forward(p.q, blocks, p.out, b, mod);
  CAPTURE(name);
  CHECK(softmax_test::worst_error(p, expected) <= 1);
}

template <class Mask>
void check_mask(const char* name, const Mask& mask, const options& o = {}) {
  reference::softmax_arguments arguments = softmax_test::arguments_of<double>(o);
  softmax_test::add_mod(arguments, mask);
  check_everywhere(name, o, arguments, any_mask(mask));
}

template <class Mod>
void check_score(const char* name, const Mod& mod, const reference::score_function& by_hand) {
  const options o{.window_right = 4};
  reference::softmax_arguments arguments = softmax_test::arguments_of<double>(o);
  reference::append_score(arguments, by_hand);
  check_everywhere(name, o, arguments, any_score(mod));
}

double one(double, int, int, int, int) { return 1; }

}  // namespace

TEST_CASE("every mask of the catalogue over ranks, gradients too") {
  std::vector<std::int32_t> sorted, mixed, flags(M, 0), of_batch(2 * M), start{0, 20, 30}, end{25, 30, 53}, images;
  for (int i = 0; i < M; ++i) {
    sorted.push_back(i / 11);
    mixed.push_back(i * i % 3);
    images.push_back(i % 4 - 1);
    of_batch[static_cast<std::size_t>(i)] = i / 7;
    of_batch[static_cast<std::size_t>(M + i)] = i / 20;
  }
  flags[18] = flags[19] = flags[40] = 1;
  const std::vector<std::int32_t> prefixes{5, 30}, lengths{53, 21};
  const view<const std::int32_t, 2> ids(of_batch.data(), {2, M});
  check_mask("causal", heed::causal{});
  check_mask("window", heed::window{9, 2});
  check_mask("dilated", heed::dilated{20, 3});
  check_mask("prefix_lm", heed::prefix_lm{prefixes});
  check_mask("padding", heed::padding{2, lengths});
  check_mask("global_window", heed::global_window{6, 0, flags});
  check_mask("image_cross", heed::image_cross{start, end, 17});
  check_mask("image_cross by a table", heed::image_cross{start, end, images});
  check_mask("document", heed::document{mixed});
  check_mask("sorted_document", heed::sorted_document{ids}, {.window_left = 8});
  check_mask("shared_prefix_document", heed::shared_prefix_document{6, heed::sorted_document{sorted}});
  check_mask("neighborhood<1>", heed::neighborhood<1>({.length = M, .window = 7, .stride = 2, .dilation = 3}));
  check_mask("neighborhood<2>", heed::neighborhood<2>({{.length = 6, .window = 3}, {.length = 9, .window = 4}}));
  check_mask("neighborhood<3>",
             heed::neighborhood<3>(
                 {{.length = 3, .window = 2, .causal = true}, {.length = 3, .window = 3}, {.length = 6, .window = 3}}));
  check_mask("and, or, not", (heed::causal{} & heed::document{mixed}) | !heed::window{30, 30});
  check_mask("block_mask", heed::block_mask{heed::causal{} & heed::sorted_document{sorted}, N, M, {.block_q = 8}});
  check_mask("a lambda", [](auto at) { return (at.q + at.kv) >= 60; }, {.window_right = 20});
  check_mask("a lambda of numbers", [](heed::position at) { return (at.q * 7 + at.kv * 3 + at.h) % 5 != 0; });
}

TEST_CASE("every score mod of the catalogue over ranks, gradients too") {
  const double cap = 1.5;
  const auto squash = [=](double s, int, int, int, int) { return cap * std::tanh(s / cap); };
  const auto bent = [=](double s, int, int, int, int) { return 1 - std::pow(std::tanh(s / cap), 2); };
  check_score("softcap", heed::softcap{cap}, {.value = squash, .slope = bent, .curvature = 1});
  check_score("tanh_score", heed::tanh_score{},
              {.value = [](double s, int, int, int, int) { return std::tanh(s); },
               .slope = [](double s, int, int, int, int) { return 1 - std::pow(std::tanh(s), 2); },
               .curvature = 1});
  const auto slopes = heed::alibi_slopes(2);
  check_score("alibi", heed::alibi{slopes},
              {.value = [&](double s, int, int h, int p, int t) { return s - slopes(h) * (p - t); }, .slope = one});
  check_score(
      "symmetric_alibi", heed::symmetric_alibi{slopes},
      {.value = [&](double s, int, int h, int p, int t) { return s - slopes(h) * std::abs(p - t); }, .slope = one});
  support::random_engine random(5);
  const auto buckets = support::normal_tensor<double, 2>({2, 8}, random);
  const heed::t5_buckets bucket(8, 12);
  const auto table = heed::t5_expand(buckets.all(), bucket);
  check_score(
      "relative_bias by T5 buckets", heed::relative_bias{table},
      {.value = [&](double s, int, int h, int p, int t) { return s + buckets(h, bucket(t - p)); }, .slope = one});
  const std::vector<double> factors{0.5, -1};
  const auto factor = [&](int h) { return factors[static_cast<std::size_t>(h)]; };
  check_score("temperature", heed::temperature{factors},
              {.value = [&](double s, int, int h, int, int) { return factor(h) * s; },
               .slope = [&](double, int, int h, int, int) { return factor(h); }});
  check_score("log_activation", heed::log_activation([](auto s) { return exp(s); }, 0.5),
              {.value = [](double s, int, int, int, int) { return std::log(std::exp(s) + 0.5); },
               .slope = [](double s, int, int, int, int) { return std::exp(s) / (std::exp(s) + 0.5); },
               .curvature = 1});
  check_score("a lambda", [](auto s, auto at) { return s * s * 0.25 + heed::to_real(s, at.q) * 0.125; },
              {.value = [](double s, int, int, int p, int) { return s * s * 0.25 + p * 0.125; },
               .slope = [](double s, int, int, int, int) { return 0.5 * s; },
               .gain = 3,
               .curvature = 0.5});
}

TEST_CASE("packed sequences over ranks are what softmax_forward makes of their offsets") {
  const std::vector<std::int32_t> cu{0, 10, 10, 31, 32, 45};
  const auto ids = heed::document_ids(cu, 45);
  const auto mask = heed::causal{} & heed::sorted_document{ids};
  const options o{.window_left = 7, .window_right = 0};
  reference::softmax_arguments packed = softmax_test::arguments_of<double>(o);
  packed.cu_q.assign(cu.begin(), cu.end());
  packed.cu_k = packed.cu_q;
  for (const int ranks : {1, 2, 5})
    for (const deal how : all_deals) {
      problem p({1, 2, 1, 45, 45, 3, 4}, 11);
      ring_run run{deal_out(how, 45, ranks), deal_out(how, 45, ranks)};
      CAPTURE(ranks, int(how));
      CHECK(ring_error(p, run, o, packed, any_mask(mask)) <= 1);
    }
  using support::check_refusal;
  check_refusal("document_ids", {"cu_seqlens", "45"}, [&] { heed::document_ids(cu, 46); });
  const std::vector<std::int32_t> late{1, 3}, down{0, 3, 2, 3};
  check_refusal("document_ids", {"cu_seqlens", "start at 0"}, [&] { heed::document_ids(late, 3); });
  check_refusal("document_ids", {"cu_seqlens", "decrease"}, [&] { heed::document_ids(down, 3); });
  check_refusal("document_ids", {"cu_seqlens", "none"}, [] { heed::document_ids({}, 0); });
}
