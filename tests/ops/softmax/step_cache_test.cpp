#include "ops/softmax/cached.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/refusal.hpp"

using namespace softmax_test;

namespace {

/// A problem's queries beside tokens; its own keys and values are of no account.
problem<float> queries_for(const shape& s) { return problem<float>(s, 3); }

}  // namespace

TEMPLATE_TEST_CASE("softmax_step over every layout of every format of rows agrees with its definition on the live rows",
                   "", float, heed::bfloat16, heed::int8_rows, heed::int4_rows, heed::int4_half32_rows) {
  unsigned seed = 0;
  for (const shape& s : {shape{5, 4, 2, 1, 0, 33, 20}, shape{5, 4, 1, 2, 0, 64, 48}, shape{5, 5, 1, 7, 0, 16, 80}}) {
    if (support::small_grid() && s.N == 2) continue;
    const cached_tokens<TestType> tokens(s, {0, 1, 64, 150, 317}, ++seed);
    auto p = queries_for(s);
    const auto sink = support::normal_tensor<float, 1>({s.H}, p.random);
    for_each_layout(tokens, [&](const auto& cache, const liveness& live) {
      CAPTURE(s.H, s.G, s.N);
      const auto error = [&](const softmax_step_options<float>& options) {
        return cached_step_error(p, cache, tokens, options, live, heed::causal{});
      };
      CHECK(error({}) <= 1);
      CHECK(error({.softcap = 3, .sink = sink, .split = 64}) <= 1);
      CHECK(error({.window_left = 30, .split = 100}) <= 1);
      CHECK(error({.window_left = 90, .window_right = 5, .q_offset = 60, .kv_offset = -2}) <= 1);
    });
  }
}

TEST_CASE("score mods and masks of a step see the true positions of a ring's keys") {
  const shape s{2, 2, 1, 1, 0, 16, 16};
  const cached_tokens<float> tokens(s, {50, 137}, 4);
  heed::ring_cache<float> cache({.batch = 2, .sinks = 3, .window = 20, .features = 16});
  tokens.append_to(cache, 6);
  auto p = queries_for(s);
  const liveness live = [](index_t t, index_t end) { return t < 3 || t >= end - 20; };
  const auto distance = [](auto x, auto at) { return x - 0.05f * heed::to_real(x, at.q - at.kv); };
  const auto third = [](position at) { return at.kv % 3 == 0; };
  CHECK(cached_step_error(p, cache, tokens, {}, live, distance, third) <= 1);
}

TEST_CASE("a step over a paged view is that over the cache whose table it has, and no label of a page changes a bit") {
  const shape s{3, 4, 2, 2, 0, 24, 40};
  const cached_tokens<float> tokens(s, {45, 0, 70}, 5);
  auto first = queries_for(s), second = queries_for(s), third = queries_for(s);
  for (const index_t page_size : {1, 3, 16, 64}) {
    const index_t pages = 140;
    lent_rows<float> memory(pages, page_size, tokens, support::layout::dense);
    heed::paged_cache<float> cache({3, s.G, pages, page_size, s.D, s.E}, memory.k.memory(), memory.v.memory());
    tokens.append_to(cache, 100);
    heed::softmax_step(first.q, cache, first.out, {.lse = first.lse, .split = 64}, heed::causal{});

    heed::paged_cache<float> other({3, s.G, pages, page_size, s.D, s.E});
    tokens.append_to(other, 30);
    other.free(0);
    other.clear();
    tokens.append_to(other, 2);
    CAPTURE(page_size);
    if (page_size < 64) {
      const auto mine = cache.pages(2), others = other.pages(2);
      CHECK_FALSE(same_bits<const std::int32_t, 1>(mine, others));
    }
    heed::softmax_step(second.q, other, second.out, {.lse = second.lse, .split = 64}, heed::causal{});
    CHECK(same_result(first, second));

    const page_lists lists(cache);
    const heed::paged_view<float> seen({s.G, pages, page_size, s.D, s.E}, memory.k.memory(), memory.v.memory(),
                                       lists.table());
    heed::softmax_step(third.q, seen, third.out, {.lse = third.lse, .split = 64}, heed::causal{});
    CHECK(same_result(first, third));
  }
}

TEST_CASE("a step over a cache refuses what does not fit it") {
  const heed::contiguous_cache<float> good({2, 2, 8, 6, 5}), one({1, 2, 8, 6, 5}), heads({2, 3, 8, 6, 5}),
      keys({2, 2, 8, 7, 5}), values({2, 2, 8, 6, 4}), none({2, 0, 8, 6, 5});
  problem<float> p({2, 4, 2, 1, 3, 6, 5});
  const std::vector<std::int32_t> lengths{1, 1};
  const auto refuses = [&](const heed::contiguous_cache<float>& cache, const softmax_step_options<float>& options,
                           const std::vector<std::string>& parts) {
    support::check_refusal("softmax_step", parts, [&] { heed::softmax_step(p.q, cache, p.out, options); });
    CHECK(std::all_of(p.out.begin(), p.out.end(), [](float x) { return std::isnan(x); }));
  };
  refuses(one, {}, {"cache.batch()", "2 (B, as q)", "got 1"});
  refuses(heads, {}, {"cache.kv_heads()", "divisor of H = 4", "got 3"});
  refuses(none, {}, {"cache.kv_heads()", "divisor of H = 4", "got 0"});
  refuses(keys, {}, {"cache.features()", "6 (D, as q)", "got 7"});
  refuses(values, {}, {"cache.value_features()", "5 (E, as out)", "got 4"});
  refuses(good, {.bias = p.k}, {"options.bias", "none beside a cache"});
  refuses(good, {.kv_lengths = lengths}, {"options.kv_lengths", "none beside a cache"});
  refuses(good, {.split = 0}, {"options.split", "at least 1"});
  refuses(good, {.kv_offset = index_t(1) << 31}, {"options.kv_offset"});
  CHECK_NOTHROW(heed::softmax_step(p.q, good, p.out));
}

TEST_CASE("8-bit rows of whole vectors, which steps read where they are, count as their codes times their scales") {
  constexpr index_t B = 2, H = 6, G = 2, N = 2, M = 150, D = 64, E = 32;
  problem<float> p({B, H, G, N, M, D, E}), expected({B, H, G, N, M, D, E});
  for (index_t j = 0; j < M; ++j)
    for (index_t e = 0; e < E; ++e) p.v(1, 1, j, e) *= static_cast<float>(j % 7);
  heed::contiguous_cache<heed::int8_rows> whole(
      {.batch = B, .kv_heads = G, .capacity = M, .features = D, .value_features = E});
  heed::paged_cache<heed::int8_rows> paged(
      {.batch = B, .kv_heads = G, .pages = 20, .page_size = 16, .features = D, .value_features = E});
  whole.append(p.k, p.v);
  paged.append(p.k, p.v);
  for (index_t b = 0; b < B; ++b)
    for (index_t g = 0; g < G; ++g) {
      const auto rows = whole.piece(b, g, 0);
      rows.load_keys<float, heed::default_arch>(0, int(M), &expected.k(b, g, 0, 0), D);
      rows.load_values<float, heed::default_arch>(0, int(M), &expected.v(b, g, 0, 0), E);
    }
  const auto error_of_step = [&](const auto& cache, auto... mods) {
    heed::softmax_step(p.q, cache, p.out, {.lse = p.lse, .split = 64}, mods...);
    expected.out = p.out;
    expected.lse = p.lse;
    expected.q = p.q;
    return step_error<float>(expected, {}, 1, mods...);
  };
  CHECK(error_of_step(whole) <= 1);
  CHECK(error_of_step(whole, heed::causal{}) <= 1);
  CHECK(error_of_step(paged) <= 1);
}
