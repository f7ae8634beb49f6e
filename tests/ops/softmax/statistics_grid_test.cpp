#include "ops/softmax/statistics.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <heed/mod/compose.hpp>
#include <heed/mod/masks.hpp>
#include <heed/mod/score.hpp>

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

using namespace softmax_test;

namespace {

struct head_counts {
  index_t heads, groups;
};
constexpr head_counts groupings[] = {{2, 2}, {4, 2}, {3, 1}, {4, 1}, {1, 1}};

std::vector<index_t> lengths() {
  if (support::small_grid()) return {0, 1, 65};
  return {0, 1, 7, 64, 97, 129};
}

/// Every option in turn, on shapes drawn at random.
template <class S, class A>
void check_arch() {
  CAPTURE(A::name(), heed::dtype_name<S>);
  using T = heed::accumulator_t<S>;
  support::random_engine random(53);
  const index_t rounds = support::small_grid() ? 6 : 12;
  for (index_t round = 0; round < rounds; ++round) {
    const auto size = [&](index_t most) { return support::draw(random, 1, most); };
    const shape s{1, 2, 1 + round % 2, size(230), size(300), size(70), 1};
    CAPTURE(s.N, s.M, s.D, round);
    statistics_problem<S> p(s, static_cast<unsigned>(round));
    const auto bias = support::normal_tensor<S, 4>({1, 2, s.N, s.M}, p.random);
    const auto sink = support::normal_tensor<T, 1>({2}, p.random);
    softmax_statistics_options<S> options{};
    if (round % 3 == 1) options.window_right = 0;
    if (round % 4 == 2) {
      options.window_left = size(40);
      options.window_right = size(40);
    }
    if (round % 4 == 3) options.softcap = 2;
    if (round % 5 == 4) options.bias = bias;
    view<const T, 1> with_sink;
    if (round % 6 == 5) with_sink = sink;
    CHECK(statistics_error_on<A, S>(p, options, with_sink, 1) <= 1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("statistics agree with their definition for lengths and grouped heads", "", float, double) {
  using S = TestType;
  support::random_engine random(17);
  const std::vector<index_t> sizes{1, 3, 16, 33, 64, 80};
  unsigned seed = 0;
  for (const index_t N : lengths())
    for (const index_t M : lengths())
      for (const bool causal : {false, true}) {
        const head_counts heads = groupings[seed % std::size(groupings)];
        const shape s{1 + seed % 2, heads.heads, heads.groups, N, M, sizes[random() % sizes.size()], 1};
        CAPTURE(s.B, s.H, s.G, s.N, s.M, s.D, causal);
        ++seed;
        statistics_problem<S> p(s, seed, static_cast<index_t>(seed % 9));
        CHECK((causal ? statistics_error<S>(p, {}, 1, heed::causal{}) : statistics_error<S>(p)) <= 1);
      }
}

TEMPLATE_TEST_CASE("statistics of 16-bit queries and keys agree with their definition", "", heed::bfloat16,
                   heed::float16) {
  check_arch<TestType, heed::default_arch>();
}

TEST_CASE("statistics agree with their definition on every instruction set") {
  support::for_each_distinct_arch([](auto arch) { check_arch<float, decltype(arch)>(); });
  check_arch<double, heed::default_arch>();
}

TEST_CASE("statistics agree with their definition where queries and keys are several tasks and blocks") {
  for (const bool causal : {false, true}) {
    statistics_problem<float> p({1, 2, 1, 500, 700, 16, 1}, 3, 20);
    CAPTURE(causal);
    CHECK((causal ? statistics_error<float>(p, {}, 1, heed::causal{}) : statistics_error<float>(p)) <= 1);
  }
}

TEST_CASE("statistics under masks, windows and offsets agree with their definition") {
  const auto scattered = [](position at) { return (at.q * 7 + at.kv * 3 + at.h + at.b) % 5 != 0; };
  const auto holes = [](auto at) { return at.kv % 40 >= 16; };
  for (const auto& [N, M] : {std::pair<index_t, index_t>{40, 40}, {1, 300}, {130, 131}, {33, 200}, {250, 60}}) {
    CAPTURE(N, M);
    const shape s{2, 4, 2, N, M, 8, 1};
    statistics_problem<float> causal(s), masked(s), pieces(s), window(s), composed(s);
    CHECK(statistics_error<float>(causal, {.q_offset = 3, .kv_offset = -4}, 1, heed::causal{}) <= 1);
    CHECK(statistics_error<float>(masked, {}, 1, scattered) <= 1);
    CHECK(statistics_error<float>(pieces, {}, 1, holes) <= 1);
    CHECK(statistics_error<float>(window, {.window_left = 25, .window_right = 3, .q_offset = 4, .kv_offset = -9}) <= 1);
    CHECK(statistics_error<float>(composed, {.window_left = 60}, 1, heed::prefix_lm{5} & !heed::window{6, 2}) <= 1);
  }
}

TEST_CASE("statistics with bias, softcap and score mods agree with their definition") {
  for (const auto& [N, M] : {std::pair<index_t, index_t>{40, 40}, {1, 150}, {130, 70}, {33, 200}}) {
    CAPTURE(N, M);
    const shape s{2, 3, 1, N, M, 16, 1};
    statistics_problem<float> full(s), by_key(s), by_query(s), mods(s), typed(s), all(s);
    auto bias = support::normal_tensor<float, 4>({2, 3, N, M}, full.random);
    for (index_t i = 0; i < N; ++i) bias(0, 1, i, (5 * i) % M) = -std::numeric_limits<float>::infinity();
    const auto keys = support::normal_tensor<float, 4>({1, 1, 1, M}, full.random);
    const auto queries = support::normal_tensor<float, 4>({1, 3, N, 1}, full.random);
    CHECK(statistics_error<float>(full, {.bias = bias}) <= 1);
    CHECK(statistics_error<float>(by_key, {.softcap = 1.5, .bias = keys}) <= 1);
    CHECK(statistics_error<float>(by_query, {.scale = 0.7, .bias = queries}) <= 1);
    CHECK(statistics_error<float>(mods, {}, 2,
                                  [](auto z, auto at) { return 2 * z - 0.1f * heed::to_real(z, at.q - at.kv); }) <= 1);
    CHECK(statistics_error<float>(typed, {}, 1.5, [](float z, position at) {
            return at.kv % 2 == 0 ? 1.5f * z : z - 0.25f * static_cast<float>(at.h);
          }) <= 1);
    const auto slopes = heed::alibi_slopes(3);
    CHECK(statistics_error<float>(all, {.softcap = 3, .bias = keys, .window_left = 30}, 1, heed::softcap{1.5},
                                  heed::causal{}, heed::alibi{slopes}) <= 1);
  }
}

TEMPLATE_TEST_CASE("statistics of packed sequences agree with their definition", "", float, heed::bfloat16) {
  using S = TestType;
  const std::vector<std::int32_t> cu_q{0, 5, 5, 75, 76, 76, 209}, cu_k{0, 9, 21, 21, 151, 151, 184};
  for (const bool causal : {false, true}) {
    // Three rows of each tensor belong to nobody.
    statistics_problem<S> p({1, 4, 2, cu_q.back() + 3, cu_k.back() + 3, 24, 1});
    std::erase_if(p.rows, [&](std::int32_t row) { return row >= cu_q.back(); });
    p.weights = p.template numbers<4>({1, 4, static_cast<index_t>(p.rows.size()), cu_k.back() + 3});
    const softmax_statistics_options<S> options{.cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k};
    CAPTURE(causal);
    CHECK((causal ? statistics_error<S>(p, options, 1, heed::causal{}) : statistics_error<S>(p, options)) <= 1);
    bool untouched = true;
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < 3; ++i) {
        untouched = untouched && std::isnan(p.entropy(0, h, cu_q.back() + i));
        untouched = untouched && p.top_keys(0, h, cu_q.back() + i, 0) == -7;
        untouched = untouched && std::isnan(p.head_sum(0, h, cu_k.back() + i));
        untouched = untouched && p.last_row(0, h / 2, cu_k.back() + i) == -7;
      }
    CHECK(untouched);
  }
}
