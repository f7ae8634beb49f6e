#include "ops/softmax/statistics.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

using namespace softmax_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr shape usual{2, 2, 1, 90, 170, 24, 1};

template <class S>
std::vector<S> poisons() {
  return {support::quiet_nan<S>, S(std::numeric_limits<double>::infinity()),
          S(-std::numeric_limits<double>::infinity())};
}

/// Solves the same problem as it is, and with NaN or infinity in the keys that nobody sees and the queries that see
/// nobody. No statistic may change.
template <class S>
void check_unseen(const std::function<bool(index_t b, index_t j)>& seen,
                  const std::function<bool(index_t b, index_t i)>& sees, const auto& solve_it) {
  statistics_problem<S> clean(usual);
  solve_it(clean);
  CHECK(all_finite(clean.weights));
  CHECK(all_finite(clean.entropy));
  CHECK(all_finite(clean.head_sum));
  for (const S poison : poisons<S>()) {
    statistics_problem<S> p(usual);
    for (index_t b = 0; b < usual.B; ++b) {
      for (index_t j = 0; j < usual.M; ++j)
        for (index_t d = 0; d < usual.D && !seen(b, j); ++d) p.k(b, 0, j, d) = poison;
      for (index_t i = 0; i < usual.N; ++i)
        for (index_t h = 0; h < usual.H && !sees(b, i); ++h)
          for (index_t d = 0; d < usual.D; ++d) p.q(b, h, i, d) = poison;
    }
    solve_it(p);
    CAPTURE(static_cast<double>(poison), heed::dtype_name<S>);
    CHECK(same_statistics(p, clean));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("NaN in pairs that a window hides reaches no statistic", "", float, double, heed::bfloat16) {
  // Queries at 125 .. 214: those past 199 see nothing.
  check_unseen<TestType>([](index_t, index_t j) { return j >= 95; }, [](index_t, index_t i) { return i < 75; },
                         [](auto& p) { solve<TestType>(p, {.window_left = 30, .window_right = 0, .q_offset = 125}); });
}

TEST_CASE("NaN that causal order or padding hides reaches no statistic") {
  check_unseen<float>([](index_t, index_t j) { return j < 69; }, [](index_t, index_t i) { return i >= 21; },
                      [](auto& p) { solve<float>(p, {.q_offset = -21}, heed::causal{}); });
  const std::vector<std::int32_t> lengths{100, 17};
  check_unseen<float>([&](index_t b, index_t j) { return j < lengths[static_cast<std::size_t>(b)]; },
                      [](index_t, index_t) { return true; },
                      [&](auto& p) { solve<float>(p, {}, heed::padding{lengths}); });
}

TEST_CASE("NaN in pairs that a lambda, a score mod or a bias excludes reaches no statistic") {
  const auto third = [](index_t, index_t j) { return j % 3 == 1; };
  const auto all = [](index_t, index_t) { return true; };
  check_unseen<float>(
      third, [](index_t, index_t i) { return i % 5 != 2; },
      [](auto& p) { solve<float>(p, {}, [](position at) { return at.kv % 3 == 1 && (at.q - 80) % 5 != 2; }); });
  check_unseen<float>(third, all, [](auto& p) {
    solve<float>(p, {}, [](auto s, auto at) { return at.kv % 3 != 1 ? decltype(s)(-infinity) : s * 0.5f; });
  });
  tensor<float, 4> bias({1, 1, 1, usual.M});
  for (index_t j = 0; j < usual.M; ++j) bias(0, 0, 0, j) = j % 3 == 1 ? 0.5f : -infinity;
  check_unseen<float>(third, all, [&](auto& p) { solve<float>(p, {.bias = bias}); });
}

TEST_CASE("rows of weight 0 reach no column, whatever their queries and lse hold") {
  statistics_problem<float> clean(usual), p(usual);
  solve<float>(clean, {}, heed::causal{});
  solve<float>(p, {}, heed::causal{});
  for (index_t b = 0; b < usual.B; ++b)
    for (index_t h = 0; h < usual.H; ++h)
      for (index_t i = 0; i < usual.N; ++i) {
        if (p.row_weights(b, h, i) != 0) continue;
        p.lse(b, h, i) = i % 2 == 0 ? infinity : support::quiet_nan<float>;
        for (index_t d = 0; d < usual.D; ++d) p.q(b, h, i, d) = support::quiet_nan<float>;
      }
  heed::softmax_column_statistics(p.q, p.k, p.lse,
                                  {.sum = p.column_sum,
                                   .max = p.column_max,
                                   .last_row = p.last_row,
                                   .row_weights = p.row_weights,
                                   .threshold = p.threshold},
                                  {}, heed::causal{});
  CHECK(same_statistics(p, clean));
}

TEST_CASE("a row whose lse is -inf sees nothing, even if its query and keys are no numbers") {
  statistics_problem<float> p({1, 1, 1, 20, 40, 8, 1}, 1, 3);
  p.lse.fill(-infinity);
  p.q.fill(support::quiet_nan<float>);
  p.k.fill(infinity);
  read_on<heed::default_arch, float>(p, {});
  const auto zero = [](const auto& t) { return std::all_of(t.begin(), t.end(), [](float x) { return x == 0; }); };
  const auto none = [](const auto& t) { return std::all_of(t.begin(), t.end(), [](int x) { return x == -1; }); };
  CHECK((zero(p.weights) && zero(p.top_weights) && zero(p.entropy) && zero(p.max) && zero(p.distance)));
  CHECK((zero(p.column_sum) && zero(p.head_sum) && zero(p.column_max) && zero(p.group_max)));
  CHECK((none(p.top_keys) && none(p.argmax) && none(p.last_row) && none(p.head_last)));
}

TEST_CASE("a NaN query reaches its own row and exactly the keys that it sees") {
  for (const index_t poisoned : {0, 5, 64, 149}) {
    statistics_problem<float> p({1, 1, 1, 150, 150, 16, 1});
    p.q(0, 0, poisoned, 3) = support::quiet_nan<float>;
    solve<float>(p, {}, heed::causal{});
    bool right = true;
    for (index_t i = 0; i < 150; ++i) {
      right = right && std::isnan(p.entropy(0, 0, i)) == (i == poisoned);
      right = right && std::isnan(p.max(0, 0, i)) == (i == poisoned);
    }
    for (index_t j = 0; j < 150; ++j) {
      right = right && std::isnan(p.head_sum(0, 0, j)) == (j <= poisoned);
      right = right && std::isnan(p.group_max(0, 0, j)) == (j <= poisoned);
    }
    CAPTURE(poisoned);
    CHECK(right);
  }
}
