#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

using namespace softmax_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Solves the same problem twice: as it is, and with NaN or infinity in the rows of k and v that no query of the batch
/// entry sees. Nothing may change.
template <class S, class Solve>
void check_unseen(const shape& s, const std::function<bool(index_t b, index_t j)>& seen, Solve solve) {
  const auto poisons = {support::quiet_nan<S>, S(std::numeric_limits<double>::infinity()),
                        S(-std::numeric_limits<double>::infinity())};
  problem<S> clean(s);
  solve(clean);
  for (const S poison : poisons) {
    problem<S> p(s);
    for (index_t b = 0; b < s.B; ++b)
      for (index_t g = 0; g < s.G; ++g)
        for (index_t j = 0; j < s.M; ++j) {
          if (seen(b, j)) continue;
          for (index_t d = 0; d < s.D; ++d) p.k(b, g, j, d) = poison;
          for (index_t e = 0; e < s.E; ++e) p.v(b, g, j, e) = poison;
        }
    solve(p);
    CAPTURE(static_cast<double>(poison), heed::dtype_name<S>);
    CHECK(same_result(p, clean));
  }
}

template <class S, class... Mods>
auto solver(const Mods&... mods) {
  return [=](problem<S>& p) { heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse}, mods...); };
}

constexpr shape usual{2, 2, 1, 40, 170, 24, 20};

/// Zeros and -inf if a row sees nothing.
void check_row_by_row(problem<float>& p, const std::function<bool(index_t i, index_t j)>& visible, index_t b,
                      index_t h) {
  reference::softmax_arguments arguments;
  const index_t offset = p.k.extent(2) - p.q.extent(2);
  arguments.visible = [&](int, int, int query, int key) { return visible(query - offset, key); };
  const auto expected = reference::softmax<float>(p.q, p.k, p.v, arguments);
  for (index_t i = 0; i < p.q.extent(2); ++i) {
    CHECK(relative_to(p.lse(b, h, i), expected.lse(b, h, i), 1e-5) <= 1);
    for (index_t e = 0; e < p.v.extent(3); ++e)
      CHECK(relative_to(p.out(b, h, i, e), expected.out(b, h, i, e), 1e-5) <= 1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("NaN in keys and values that a window hides has no effect", "", float, heed::bfloat16) {
  check_unseen<TestType>(
      usual, [](index_t, index_t j) { return j >= 95 && j < 165; },
      [](problem<TestType>& p) {
        heed::softmax_forward(p.q, p.k, p.v, p.out,
                              {.lse = p.lse, .window_left = 30, .window_right = 0, .q_offset = 125});
        for (index_t i = 0; i < 40; ++i) CHECK(std::isfinite(static_cast<double>(p.lse(1, 1, i))));
      });
}

TEST_CASE("NaN in keys and values past the last visible key of a causal call has no effect") {
  check_unseen<float>(
      usual, [](index_t, index_t j) { return j < 70; },
      [](problem<float>& p) {
        heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .q_offset = 30}, heed::causal{});
      });
}

TEST_CASE("NaN in padded keys and values has no effect, by batch entry") {
  const std::vector<std::int32_t> lengths{100, 17};
  check_unseen<float>(
      usual, [&](index_t b, index_t j) { return j < lengths[static_cast<std::size_t>(b)]; },
      solver<float>(heed::padding{lengths}));
}

TEST_CASE("NaN in keys and values that a lambda hides has no effect") {
  const auto odd = [](index_t, index_t j) { return j % 3 == 1; };
  check_unseen<float>(usual, odd, solver<float>([](auto at) { return (at.q > -9999) && at.kv % 3 == 1; }));
  check_unseen<float>(usual, odd, solver<float>([](position at) { return at.kv % 3 == 1; }));
}

TEST_CASE("NaN in keys and values whose score mod returns -inf has no effect") {
  // The mod never looks at the score of a pair that it excludes.
  check_unseen<float>(
      usual, [](index_t, index_t j) { return j % 5 != 2; },
      solver<float>([](auto s, auto at) { return at.kv % 5 == 2 ? decltype(s)(-infinity) : s; }));
}

TEST_CASE("NaN in keys and values whose bias is -inf has no effect") {
  tensor<float, 4> bias({1, 1, 1, usual.M});
  for (index_t j = 0; j < usual.M; ++j) bias(0, 0, 0, j) = j % 4 == 0 || j >= 128 ? -infinity : 0.5f;
  check_unseen<float>(
      usual, [](index_t, index_t j) { return j % 4 != 0 && j < 128; },
      [&](problem<float>& p) { heed::softmax_forward(p.q, p.k, p.v, p.out, {.bias = bias, .lse = p.lse}); });
}

TEST_CASE("NaN past the last packed sequence has no effect") {
  const std::vector<std::int32_t> cu_q{0, 10, 33}, cu_k{0, 90, 150};
  check_unseen<float>(
      {1, 2, 1, 40, 170, 24, 20}, [](index_t, index_t j) { return j < 150; },
      [&](problem<float>& p) {
        for (index_t i = 33; i < 40; ++i) p.q(0, 0, i, 0) = support::quiet_nan<float>;
        heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k});
      });
}

TEST_CASE("NaN in a key or value reaches exactly the rows that see it") {
  for (const bool in_key : {true, false})
    for (const index_t poisoned : {0, 5, 127, 128, 149}) {
      problem<float> p({1, 1, 1, 150, 150, 16, 8}), clean({1, 1, 1, 150, 150, 16, 8});
      (in_key ? p.k : p.v)(0, 0, poisoned, 3) = support::quiet_nan<float>;
      heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse}, heed::causal{});
      heed::softmax_forward(clean.q, clean.k, clean.v, clean.out, {.lse = clean.lse}, heed::causal{});
      bool right = true;
      for (index_t i = 0; i < 150; ++i)
        for (index_t e = 0; e < 8; ++e) {
          const bool reached = i >= poisoned && (in_key || e == 3);
          const float got = p.out(0, 0, i, e);
          right = right && (reached ? std::isnan(got) : std::fabs(got - clean.out(0, 0, i, e)) <= 1e-5f);
        }
      CAPTURE(in_key, poisoned);
      CHECK(right);
    }
}

TEST_CASE("a NaN query spoils its own row only") {
  problem<float> p({1, 1, 1, 40, 60, 16, 8}), clean({1, 1, 1, 40, 60, 16, 8});
  p.q(0, 0, 7, 2) = support::quiet_nan<float>;
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse});
  heed::softmax_forward(clean.q, clean.k, clean.v, clean.out, {.lse = clean.lse});
  for (index_t i = 0; i < 40; ++i)
    for (index_t e = 0; e < 8; ++e)
      CHECK((i == 7 ? std::isnan(p.out(0, 0, i, e)) : std::fabs(p.out(0, 0, i, e) - clean.out(0, 0, i, e)) <= 1e-5f));
}

TEST_CASE("rows that see nothing are zeros and -inf, among others that see something") {
  problem<float> p({2, 2, 1, 60, 150, 16, 8});
  const auto visible = [](index_t i, index_t j) { return i % 3 != 0 && j <= i * 2; };
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse}, [&](position at) { return visible(at.q - 90, at.kv); });
  check_row_by_row(p, visible, 1, 1);
  for (const index_t i : {0, 3, 57}) {
    CHECK(p.lse(1, 1, i) == -infinity);
    for (index_t e = 0; e < 8; ++e) CHECK(p.out(1, 1, i, e) == 0);
  }
}

TEMPLATE_TEST_CASE("no NaN comes out of finite inputs, however large the scores", "", float, double) {
  for (const double size : {1.0, 30.0, 1e4})
    for (const index_t right : {-1, 0}) {
      problem<TestType> p({1, 2, 1, 70, 200, 16, 16});
      for (TestType& x : p.q) x *= static_cast<TestType>(size);
      CAPTURE(size, right);
      CHECK(error_of<TestType>(p, {.scale = 1, .window_right = right}) <= 1);
      CHECK(all_finite(p.out));
    }
}

TEST_CASE("values near the largest float do not overflow on the way, wherever scores rise to") {
  for (const float step : {-20.f, 0.f, 5.f, 20.f, 300.f})
    for (const index_t right : {-1, 0}) {
      problem<float> p({1, 2, 1, 150, 500, 8, 8});
      for (float& x : p.v) x *= 1e35f;
      CAPTURE(step, right);
      const auto slide = [step](auto s, auto at) { return s + step * static_cast<float>(at.kv / 16); };
      CHECK(error_of<float>(p, {.window_right = right}, 1, slide) <= 1);
      CHECK(all_finite(p.out));
    }
}

TEST_CASE("scores that rise or fall from tile to tile by more than float can hold a ratio") {
  for (const float step : {-300.f, -20.f, 20.f, 300.f, 3000.f}) {
    problem<float> p({1, 1, 1, 70, 500, 8, 8});
    CAPTURE(step);
    const auto slide = [step](auto s, auto at) { return s + step * static_cast<float>(at.kv / 100); };
    CHECK(error_of<float>(p, {}, 1, slide) <= 1);
    CHECK(error_of<float>(p, {}, 1, slide, heed::causal{}) <= 1);
    CHECK(all_finite(p.out));

    problem<float> steep({1, 1, 1, 70, 500, 8, 8});
    for (index_t i = 0; i < 70; ++i) steep.q(0, 0, i, 0) = i % 2 == 0 ? 10.f : -10.f;
    for (index_t j = 0; j < 500; ++j) steep.k(0, 0, j, 0) = step / 10 * static_cast<float>(j / 100);
    CHECK(error_of<float>(steep, {.scale = 1}) <= 1);
    CHECK(error_of<float>(steep, {.scale = 1, .window_right = 0}) <= 1);
  }
}
