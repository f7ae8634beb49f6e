// Identities of attention that need no reference.
#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"

#include <heed/mod/masks.hpp>

#include <limits>
#include <numeric>
#include <vector>

using namespace softmax_test;

namespace {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

template <class S>
shape random_shape(support::random_engine& random) {
  const auto size = [&random](index_t most) { return support::draw(random, 1, most); };
  const index_t groups = size(3);
  return {size(2), groups * size(3), groups, size(100), size(260), size(70), size(70)};
}

/// f(problem, round) over random shapes.
template <class S, class F>
void for_random_problems(unsigned seed, F f) {
  support::random_engine random(seed);
  const int rounds = support::small_grid() ? 3 : 12;
  for (int round = 0; round < rounds; ++round) {
    const shape s = random_shape<S>(random);
    CAPTURE(s.B, s.H, s.G, s.N, s.M, s.D, s.E, round);
    problem<S> p(s, seed + static_cast<unsigned>(round));
    f(p, round);
  }
}

template <class S>
void solve(problem<S>& p, softmax_options<S> options = {}) {
  options.lse = p.lse;
  heed::softmax_forward(p.q, p.k, p.v, p.out, options);
}

/// The noise that the definition's page allows for a problem.
template <class S>
reference::softmax_result expected_of(const problem<S>& p, const softmax_options<S>& options = {}) {
  return reference::softmax<S>(p.q, p.k, p.v, arguments_of<S>(options));
}

/// Whether two results agree within what is allowed for one of them; `shift` is added to the lse of b.
template <class S>
double difference(const problem<S>& a, const problem<S>& b, const reference::softmax_result& noise, double shift = 0) {
  reference::softmax_result center = noise;
  for (index_t n = 0; n < b.out.extent(0); ++n)
    for (index_t h = 0; h < b.out.extent(1); ++h)
      for (index_t i = 0; i < b.out.extent(2); ++i) {
        center.lse(n, h, i) = static_cast<double>(b.lse(n, h, i)) + shift;
        for (index_t e = 0; e < b.out.extent(3); ++e) center.out(n, h, i, e) = static_cast<double>(b.out(n, h, i, e));
      }
  return worst_error(a, center);
}

}  // namespace

TEMPLATE_TEST_CASE("keys permuted together with their values give the same result", "", float, double) {
  for_random_problems<TestType>(101, [](problem<TestType>& p, int) {
    problem<TestType> permuted = p;
    std::vector<index_t> order(static_cast<std::size_t>(p.k.extent(2)));
    std::iota(order.begin(), order.end(), index_t(0));
    std::shuffle(order.begin(), order.end(), p.random);
    const auto permute = [&order](const tensor<TestType, 4>& from, tensor<TestType, 4>& to) {
      for (index_t b = 0; b < from.extent(0); ++b)
        for (index_t g = 0; g < from.extent(1); ++g)
          for (index_t j = 0; j < from.extent(2); ++j)
            for (index_t d = 0; d < from.extent(3); ++d)
              to(b, g, order[static_cast<std::size_t>(j)], d) = from(b, g, j, d);
    };
    permute(p.k, permuted.k);
    permute(p.v, permuted.v);
    solve(p);
    solve(permuted);
    CHECK(difference(permuted, p, expected_of(p)) <= 2);
  });
}

TEMPLATE_TEST_CASE("a constant added to all scores of a row moves lse by it and leaves out alone", "", float, double) {
  for_random_problems<TestType>(102, [](problem<TestType>& p, int round) {
    problem<TestType> raised = p;
    const auto constant = static_cast<TestType>(round * 4 - 20);
    const auto bias = tensor<TestType, 4>::full({1, 1, 1, 1}, constant);
    solve(p);
    solve(raised, {.bias = bias});
    CHECK(difference(raised, p, expected_of<TestType>(raised, {.bias = bias}), static_cast<double>(constant)) <= 2);
  });
}

TEMPLATE_TEST_CASE("values that do not depend on the key are the output", "", float, double) {
  for_random_problems<TestType>(103, [](problem<TestType>& p, int round) {
    for (index_t b = 0; b < p.v.extent(0); ++b)
      for (index_t g = 0; g < p.v.extent(1); ++g)
        for (index_t j = 0; j < p.v.extent(2); ++j)
          for (index_t e = 0; e < p.v.extent(3); ++e)
            p.v(b, g, j, e) = static_cast<TestType>(g - 2 * b + 1) + TestType(0.37) * static_cast<TestType>(e);
    solve(p, {.window_right = round % 2 == 0 ? -1 : 0});
    const index_t group = p.q.extent(1) / p.v.extent(1);
    double worst = 0;
    for (index_t b = 0; b < p.out.extent(0); ++b)
      for (index_t h = 0; h < p.out.extent(1); ++h)
        for (index_t i = 0; i < p.out.extent(2); ++i) {
          if (static_cast<double>(p.lse(b, h, i)) == minus_infinity) continue;
          for (index_t e = 0; e < p.out.extent(3); ++e) {
            const auto constant = static_cast<double>(p.v(b, h / group, 0, e));
            // Weights and their sum round alike, so only the additions differ.
            const double allowed = 2 * roundoff<TestType> * (std::sqrt(128 + 3.0) + 8) * std::fabs(constant);
            worst = worse(worst, relative_to(static_cast<double>(p.out(b, h, i, e)), constant, allowed));
          }
        }
    CHECK(worst <= 1);
  });
}

TEMPLATE_TEST_CASE("shared kv heads equal repeated ones, bit for bit", "", float, double, heed::bfloat16) {
  for_random_problems<TestType>(104, [](problem<TestType>& p, int round) {
    const index_t heads = p.q.extent(1), group = heads / p.k.extent(1);
    problem<TestType> repeated(
        {p.q.extent(0), heads, heads, p.q.extent(2), p.k.extent(2), p.q.extent(3), p.v.extent(3)});
    repeated.q = p.q;
    for (index_t b = 0; b < p.q.extent(0); ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t j = 0; j < p.k.extent(2); ++j) {
          for (index_t d = 0; d < p.k.extent(3); ++d) repeated.k(b, h, j, d) = p.k(b, h / group, j, d);
          for (index_t e = 0; e < p.v.extent(3); ++e) repeated.v(b, h, j, e) = p.v(b, h / group, j, e);
        }
    const softmax_options<TestType> options{.window_right = round % 2 == 0 ? -1 : 0};
    solve(p, options);
    solve(repeated, options);
    CHECK(same_result(p, repeated));
  });
}

TEMPLATE_TEST_CASE("a sink of -inf is no sink, bit for bit", "", float, double) {
  for_random_problems<TestType>(105, [](problem<TestType>& p, int) {
    problem<TestType> with = p;
    const auto sink = tensor<TestType, 1>::full({p.q.extent(1)}, static_cast<TestType>(minus_infinity));
    solve(p);
    solve(with, {.sink = sink});
    CHECK(same_result(p, with));
  });
}

TEMPLATE_TEST_CASE("a sink equals one more key with that score and a value of zero", "", float, double) {
  for_random_problems<TestType>(106, [](problem<TestType>& p, int) {
    const index_t M = p.k.extent(2);
    problem<TestType> longer(
        {p.q.extent(0), p.q.extent(1), p.k.extent(1), p.q.extent(2), M + 1, p.q.extent(3), p.v.extent(3)});
    longer.q = p.q;
    for (index_t b = 0; b < p.k.extent(0); ++b)
      for (index_t g = 0; g < p.k.extent(1); ++g)
        for (index_t j = 0; j <= M; ++j) {
          for (index_t d = 0; d < p.k.extent(3); ++d) longer.k(b, g, j, d) = j < M ? p.k(b, g, j, d) : TestType(0);
          for (index_t e = 0; e < p.v.extent(3); ++e) longer.v(b, g, j, e) = j < M ? p.v(b, g, j, e) : TestType(0);
        }
    const auto sink = support::normal_tensor<TestType, 1>({p.q.extent(1)}, p.random, 3);
    tensor<TestType, 4> bias({1, p.q.extent(1), 1, M + 1});
    for (index_t h = 0; h < p.q.extent(1); ++h) bias(0, h, 0, M) = sink(h);
    solve(p, {.sink = sink});
    solve(longer, {.bias = bias});
    CHECK(difference(longer, p, expected_of<TestType>(p, {.sink = sink})) <= 2);
  });
}

TEST_CASE("a softcap tends to none as it grows") {
  problem<double> none({1, 2, 1, 20, 60, 16, 8});
  solve(none);
  double before = 1e9;
  for (const double cap : {1e1, 1e2, 1e3, 1e4}) {
    problem<double> capped({1, 2, 1, 20, 60, 16, 8});
    solve(capped, {.softcap = cap});
    double largest = 0;
    for (index_t i = 0; i < capped.out.size(); ++i)
      largest = std::max(largest, std::fabs(capped.out.data()[i] - none.out.data()[i]));
    CHECK(largest < before / 50);
    before = largest;
  }
}

TEMPLATE_TEST_CASE("a scale of 0 gives the mean of the visible values and the log of their number", "", float, double) {
  for_random_problems<TestType>(108, [](problem<TestType>& p, int) {
    const index_t N = p.q.extent(2), M = p.k.extent(2);
    solve(p, {.scale = 0, .window_left = 30, .window_right = 0});
    double worst = 0;
    for (index_t i = 0; i < N; ++i) {
      const index_t last = std::min(i + M - N, M - 1), first = std::max<index_t>(0, i + M - N - 30);
      const index_t count = std::max<index_t>(0, last - first + 1);
      const double lse = count > 0 ? std::log(static_cast<double>(count)) : minus_infinity;
      worst = worse(worst, relative_to(static_cast<double>(p.lse(0, 0, i)), lse, 16 * roundoff<TestType>));
      for (index_t e = 0; e < p.v.extent(3); ++e) {
        double mean = 0, size = 0;
        for (index_t j = first; j <= last; ++j) {
          mean += static_cast<double>(p.v(0, 0, j, e)) / static_cast<double>(count);
          size += std::fabs(static_cast<double>(p.v(0, 0, j, e))) / static_cast<double>(count);
        }
        worst = worse(worst, relative_to(static_cast<double>(p.out(0, 0, i, e)), mean, 40 * roundoff<TestType> * size));
      }
    }
    CHECK(worst <= 1);
  });
}

TEMPLATE_TEST_CASE("fully masked rows are zeros and -inf", "", float, double, heed::bfloat16) {
  for_random_problems<TestType>(109, [](problem<TestType>& p, int) {
    const index_t N = p.q.extent(2);
    solve(p, {.window_right = 0, .q_offset = -(N + 1) / 2});
    bool empty = true, full = true;
    for (index_t i = 0; i < N; ++i)
      for (index_t h = 0; h < p.q.extent(1); ++h) {
        const bool sees_nothing = i < (N + 1) / 2;
        const bool nothing = static_cast<double>(p.lse(0, h, i)) == minus_infinity;
        empty = empty && (!sees_nothing || nothing);
        full = full && (sees_nothing || !nothing);
        for (index_t e = 0; e < p.out.extent(3); ++e)
          empty = empty && (!sees_nothing || static_cast<double>(p.out(0, h, i, e)) == 0);
      }
    CHECK(empty);
    CHECK(full);
  });
}

TEST_CASE("causal with one query and one key is the value") {
  problem<float> p({1, 1, 1, 1, 1, 8, 8});
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse}, heed::causal{});
  CHECK(same_bits<float, 4>(p.out, p.v));
  CHECK(p.lse(0, 0, 0) == Catch::Approx(static_cast<double>(reference::softmax<float>(p.q, p.k, p.v).lse(0, 0, 0))));
}

TEST_CASE("causal with more queries than keys: the first N - M rows see nothing") {
  for (const auto& [N, M] : {std::pair<index_t, index_t>{5, 2}, {200, 130}, {64, 1}, {70, 0}}) {
    problem<float> p({1, 2, 1, N, M, 8, 8});
    heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse}, heed::causal{});
    bool right = true;
    for (index_t i = 0; i < N; ++i) {
      right = right && (p.lse(0, 1, i) == static_cast<float>(minus_infinity)) == (i < N - M);
      for (index_t e = 0; e < 8 && i < N - M; ++e) right = right && p.out(0, 1, i, e) == 0;
    }
    CAPTURE(N, M);
    CHECK(right);
    if (M > 0) CHECK(same_bits<float, 1>(p.out.all()[0][1][N - M], p.v.all()[0][0][0]));
  }
}

TEMPLATE_TEST_CASE("scores of +-1e4 and biases of -inf stay finite", "", float, double) {
  for_random_problems<TestType>(112, [](problem<TestType>& p, int round) {
    const index_t N = p.q.extent(2), M = p.k.extent(2);
    auto bias = support::normal_tensor<TestType, 4>({1, 1, N, M}, p.random);
    for (TestType& x : bias)
      x = p.random() % 5 == 0 ? static_cast<TestType>(minus_infinity) : x < 0 ? TestType(-1e4) : TestType(1e4);
    const softmax_options<TestType> options{.bias = bias, .window_right = round % 2 == 0 ? -1 : 3};
    solve(p, options);
    CHECK(worst_error(p, expected_of(p, options)) <= 1);
    CHECK(all_finite(p.out));
  });
}
