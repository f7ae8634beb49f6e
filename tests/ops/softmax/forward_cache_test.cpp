#include "ops/softmax/cached.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/refusal.hpp"

using namespace softmax_test;

TEMPLATE_TEST_CASE(
    "softmax_forward over every layout of every format of rows agrees with its definition on the live "
    "rows",
    "", float, heed::bfloat16, heed::int8_rows, heed::int4_rows, heed::int4_half32_rows) {
  const std::vector<index_t> lengths{0, 33, 200, 331};
  const std::vector<std::int32_t> cu{0, 20, 20, 110, 127};
  unsigned seed = 0;
  for (const shape& s : {shape{4, 4, 2, 37, 0, 33, 20}, shape{4, 3, 3, 1, 0, 64, 48}}) {
    if (support::small_grid() && s.N == 1) continue;
    const cached_tokens<TestType> tokens(s, lengths, ++seed);
    problem<float> p(s, 3), packed({1, s.H, s.G, cu.back() + 3, 0, s.D, s.E}, 4);
    const auto sink = support::normal_tensor<float, 1>({s.H}, p.random);
    for_each_layout(tokens, [&](const auto& cache, const liveness& live) {
      CAPTURE(s.H, s.G, s.N);
      const auto error = [&](problem<float>& of, const softmax_options<float>& options) {
        return cached_forward_error(of, cache, tokens, options, live, heed::causal{});
      };
      CHECK(error(p, {}) <= 1);
      CHECK(error(p, {.softcap = 3, .sink = sink, .window_left = 30}) <= 1);
      CHECK(error(p, {.window_left = 90, .window_right = 5, .q_offset = 60, .kv_offset = -2}) <= 1);
      CHECK(error(packed, {.cu_seqlens_q = cu}) <= 1);
      CHECK(error(packed, {.sink = sink, .window_left = 50, .cu_seqlens_q = cu}) <= 1);
      // Rows that no sequence owns are left as they are.
      CHECK(std::isnan(packed.out(0, s.H - 1, cu.back(), 0)));
    });
  }
}

TEST_CASE("score mods and masks see the true positions of a ring's keys, and the number of a packed sequence") {
  const std::vector<std::int32_t> cu{0, 9, 40};
  const shape s{2, 2, 1, 0, 0, 16, 16};
  const cached_tokens<float> tokens(s, {50, 137}, 4);
  heed::ring_cache<float> cache({.batch = 2, .sinks = 3, .window = 20, .features = 16});
  tokens.append_to(cache, 6);
  problem<float> p({1, 2, 1, 40, 0, 16, 16});
  const liveness live = [](index_t t, index_t end) { return t < 3 || t >= end - 20; };
  const auto distance = [](auto x, auto at) { return x - 0.05f * heed::to_real(x, at.q - at.kv); };
  const auto third = [](position at) { return at.kv % 3 == 0; };
  CHECK(cached_forward_error(p, cache, tokens, {.cu_seqlens_q = cu}, live, distance, third) <= 1);

  // Sequence 0 sees nothing.
  heed::softmax_forward(p.q, cache, p.out, {.lse = p.lse, .cu_seqlens_q = cu}, [](position at) { return at.b == 1; });
  CHECK(p.lse(0, 0, 8) == -std::numeric_limits<float>::infinity());
  CHECK(p.lse(0, 0, 9) > -std::numeric_limits<float>::infinity());
}

TEST_CASE(
    "forward over a cache is forward over the same keys in a tensor, whatever the labels of its pages, bit for bit") {
  const shape s{2, 4, 2, 70, 150, 24, 40};
  problem<float> dense(s), cached(s);
  heed::softmax_forward(dense.q, dense.k, dense.v, dense.out, {.lse = dense.lse}, heed::causal{});
  const auto same = [&](const auto& cache) {
    heed::softmax_forward(cached.q, cache, cached.out, {.lse = cached.lse}, heed::causal{});
    return same_result(cached, dense);
  };
  heed::contiguous_cache<float> contiguous({2, s.G, 160, s.D, s.E});
  contiguous.append(dense.k, dense.v);
  CHECK(same(contiguous));
  for (const index_t page_size : {1, 3, 16, 64}) {
    heed::paged_cache<float> paged({2, s.G, 320, page_size, s.D, s.E});
    for (const index_t step : {150, 5, 1}) {
      paged.clear();
      for (index_t t = 0; t < 150; t += step)
        paged.append(dense.k.all().slice(2, t, t + step), dense.v.all().slice(2, t, t + step));
      CAPTURE(page_size, step);
      CHECK(same(paged));
    }
  }
}

TEST_CASE("forward over a cache refuses what does not fit it") {
  const heed::contiguous_cache<float> good({2, 2, 8, 6, 5}), one({1, 2, 8, 6, 5}), heads({2, 3, 8, 6, 5}),
      keys({2, 2, 8, 7, 5}), values({2, 2, 8, 6, 4}), none({2, 0, 8, 6, 5});
  problem<float> p({2, 4, 2, 7, 3, 6, 5}), packed({1, 4, 2, 7, 3, 6, 5});
  const auto refuses = [&](problem<float>& of, const heed::contiguous_cache<float>& cache,
                           const softmax_options<float>& options, const std::vector<std::string>& parts) {
    support::check_refusal("softmax_forward", parts, [&] { heed::softmax_forward(of.q, cache, of.out, options); });
    CHECK(std::all_of(of.out.begin(), of.out.end(), [](float x) { return std::isnan(x); }));
  };
  refuses(p, one, {}, {"cache.batch()", "2 (B, as q)", "got 1"});
  refuses(p, heads, {}, {"cache.kv_heads()", "divisor of H = 4", "got 3"});
  refuses(p, none, {}, {"cache.kv_heads()", "divisor of H = 4", "got 0"});
  refuses(p, keys, {}, {"cache.features()", "6 (D, as q)", "got 7"});
  refuses(p, values, {}, {"cache.value_features()", "5 (E, as out)", "got 4"});
  refuses(p, good, {.bias = p.k}, {"options.bias", "none beside a cache"});
  refuses(p, good, {.kv_offset = index_t(1) << 31}, {"options.kv_offset"});
  const std::vector<std::int32_t> cu{0, 3, 7}, three{0, 3, 5, 7}, long_one{0, 3, 8}, falling{0, 5, 3};
  refuses(packed, good, {.cu_seqlens_q = three}, {"cache.batch()", "3 (sequences", "got 2"});
  refuses(packed, good, {.cu_seqlens_q = long_one}, {"options.cu_seqlens_q", "7 rows", "got 8"});
  refuses(packed, good, {.cu_seqlens_q = falling}, {"options.cu_seqlens_q", "do not decrease"});
  refuses(packed, good, {.cu_seqlens_q = cu, .cu_seqlens_k = cu}, {"options.cu_seqlens_k", "none beside a cache"});
  refuses(p, good, {.cu_seqlens_q = cu}, {"q.extent(0) (B)", "1 (in a packed batch)", "got 2"});
  CHECK_NOTHROW(heed::softmax_forward(p.q, good, p.out));
}
