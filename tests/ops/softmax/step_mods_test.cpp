#include "ops/softmax/step.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>
#include <heed/mod/score.hpp>

#include <cstdint>
#include <vector>

using namespace softmax_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

}  // namespace

TEMPLATE_TEST_CASE("softmax_step takes softcap, bias, sink, windows and offsets", "", float, double) {
  using T = heed::accumulator_t<TestType>;
  for (const group& g : {group{6, 2, 1}, group{6, 1, 2}, group{6, 2, 5}}) {
    problem<TestType> p(shape_of(g, 190, 20, 33, 2));
    CAPTURE(g.H, g.G, g.N);
    const auto bias = support::normal_tensor<TestType, 4>({2, 6, g.N, 190}, p.random);
    const auto shared_bias = support::normal_tensor<TestType, 4>({1, 6, 1, 190}, p.random);
    const auto sink = support::normal_tensor<T, 1>({6}, p.random);
    CHECK(step_error_of<TestType>(p, {.softcap = 2}) <= 1);
    CHECK(step_error_of<TestType>(p, {.bias = bias}) <= 1);
    CHECK(step_error_of<TestType>(p, {.softcap = 3, .bias = shared_bias, .sink = sink}, 1, heed::causal{}) <= 1);
    CHECK(step_error_of<TestType>(p, {.sink = sink, .split = 64}) <= 1);
    CHECK(step_error_of<TestType>(p, {.window_left = 70, .split = 64}) <= 1);
    CHECK(step_error_of<TestType>(p, {.window_left = 0, .window_right = 0}) <= 1);
    CHECK(step_error_of<TestType>(p, {.window_left = 10, .window_right = 5, .q_offset = 30, .kv_offset = -20}) <= 1);
    CHECK(step_error_of<TestType>(p, {.q_offset = -50}, 1, heed::causal{}) <= 1);
  }
}

TEST_CASE("softmax_step takes mods") {
  const auto slopes = heed::alibi_slopes(6);
  for (const group& g : {group{6, 2, 1}, group{6, 1, 2}, group{6, 2, 5}}) {
    problem<float> p(shape_of(g, 190, 20, 33, 2));
    CAPTURE(g.H, g.G, g.N);
    CHECK(step_error_of<float>(p, {}, 1, heed::alibi{slopes}) <= 1);
    CHECK(step_error_of<float>(p, {.window_left = 100}, 1, heed::alibi{slopes}, heed::dilated{60, 3}) <= 1);
    CHECK(step_error_of<float>(p, {.split = 64}, 1, [](auto s, auto at) { return s + 0.3f * float(at.h); }) <= 1);
    CHECK(step_error_of<float>(p, {}, 1, [](position at) { return (at.kv + at.h) % 3 != at.q % 2; }) <= 1);
  }
}

TEMPLATE_TEST_CASE("rows of k and v at or past a length, and excluded keys, have no effect on a step", "", float,
                   heed::bfloat16) {
  const std::vector<std::int32_t> lengths{170, 0, 33};
  const auto solve = [&](problem<TestType>& p, auto... mods) {
    heed::softmax_step(p.q, p.k, p.v, p.out, {.lse = p.lse, .window_left = 120, .kv_lengths = lengths}, mods...);
  };
  const auto check = [&](auto seen, auto... mods) {
    const shape s{3, 6, 2, 3, 200, 24, 20};
    problem<TestType> clean(s);
    solve(clean, mods...);
    for (const TestType poison : {support::quiet_nan<TestType>, TestType(std::numeric_limits<double>::infinity())}) {
      problem<TestType> p(s);
      for (index_t b = 0; b < 3; ++b)
        for (index_t g = 0; g < 2; ++g)
          for (index_t j = 0; j < 200; ++j) {
            const index_t length = lengths[static_cast<std::size_t>(b)];
            if (j < length && j >= length - 3 - 120 && seen(j)) continue;
            for (index_t d = 0; d < 24; ++d) p.k(b, g, j, d) = poison;
            for (index_t e = 0; e < 20; ++e) p.v(b, g, j, e) = poison;
          }
      solve(p, mods...);
      CHECK(same_result(p, clean));
    }
  };
  const auto all = [](index_t) { return true; };
  const auto odd = [](index_t j) { return j % 3 == 1; };
  check(all);
  check(all, heed::causal{});
  check(odd, [](position at) { return at.kv % 3 == 1; });
  check(odd, [](auto s, auto at) { return at.kv % 3 == 1 ? s : decltype(s)(-infinity); });
}

TEST_CASE("NaN in a key or value reaches exactly the rows of a step that see it") {
  for (const index_t poisoned : {0, 64, 147, 148, 149})
    for (const bool in_key : {true, false}) {
      problem<float> p({1, 2, 1, 4, 150, 16, 16}), clean({1, 2, 1, 4, 150, 16, 16});
      (in_key ? p.k : p.v)(0, 0, poisoned, 3) = support::quiet_nan<float>;
      heed::softmax_step(p.q, p.k, p.v, p.out, {.lse = p.lse}, heed::causal{});
      heed::softmax_step(clean.q, clean.k, clean.v, clean.out, {.lse = clean.lse}, heed::causal{});
      bool right = true;
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < 4; ++i)
          for (index_t e = 0; e < 16; ++e) {
            const bool reached = 146 + i >= poisoned && (in_key || e == 3);
            const float got = p.out(0, h, i, e), expected = clean.out(0, h, i, e);
            right = right && (reached ? std::isnan(got) : got == expected);
          }
      CAPTURE(poisoned, in_key);
      CHECK(right);
    }
}

TEST_CASE("rows of a step that see nothing are zeros and -inf, or the sink") {
  const auto sink = tensor<float, 1>::full({2}, 0.5f);
  problem<float> p({1, 2, 1, 3, 100, 8, 8});
  heed::softmax_step(p.q, p.k, p.v, p.out, {.lse = p.lse, .q_offset = -1}, heed::causal{});
  for (index_t e = 0; e < 8; ++e) CHECK(p.out(0, 1, 0, e) == 0);
  CHECK(p.lse(0, 1, 0) == -infinity);
  CHECK(p.lse(0, 1, 1) > -infinity);
  CHECK(step_error_of<float>(p, {.sink = sink, .q_offset = -1}, 1, heed::causal{}) <= 1);
  CHECK(p.lse(0, 1, 0) == 0.5f);
}

TEST_CASE("scores that rise or fall by more than float can hold a ratio, and large values, in steps") {
  for (const float step : {-300.f, -20.f, 20.f, 300.f, 3000.f})
    for (const index_t split : {64, 2048}) {
      problem<float> p({1, 3, 1, 2, 700, 16, 16});
      for (float& x : p.v) x *= 1e35f;
      CAPTURE(step, split);
      const auto slide = [step](auto s, auto at) { return s + step * static_cast<float>(at.kv / 50); };
      CHECK(step_error_of<float>(p, {.split = split}, 1, slide) <= 1);
      CHECK(all_finite(p.out));
    }
}
