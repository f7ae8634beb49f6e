#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <heed/ops/softmax/merge.hpp>

#include <limits>
#include <string>
#include <vector>

using namespace softmax_test;
using heed::softmax_merge;

namespace {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

template <class S>
struct state {
  tensor<S, 4> out;
  tensor<heed::accumulator_t<S>, 3> lse;
};

template <class S>
state<S> merged(const state<S>& a, const state<S>& b) {
  state<S> c{
      tensor<S, 4>::full({a.out.extent(0), a.out.extent(1), a.out.extent(2), a.out.extent(3)}, support::quiet_nan<S>),
      a.lse};
  softmax_merge(a.out, a.lse, b.out, b.lse, c.out, c.lse);
  return c;
}

/// Attention to keys [begin, end).
template <class S>
state<S> attend(const problem<S>& p, index_t begin, index_t end) {
  state<S> s{p.out, p.lse};
  heed::softmax_forward(p.q, p.k.all().slice(2, begin, end), p.v.all().slice(2, begin, end), s.out, {.lse = s.lse});
  return s;
}

template <class S>
state<S> random_state(support::random_engine& random, double lse_size) {
  return {support::normal_tensor<S, 4>({2, 3, 11, 21}, random),
          support::normal_tensor<heed::accumulator_t<S>, 3>({2, 3, 11}, random, lse_size)};
}

template <class S>
state<S> empty_state() {
  using T = heed::accumulator_t<S>;
  return {tensor<S, 4>({2, 3, 11, 21}), tensor<T, 3>::full({2, 3, 11}, static_cast<T>(minus_infinity))};
}

template <class S>
bool same_state(const state<S>& a, const state<S>& b) {
  return same_bits<S, 4>(a.out, b.out) && same_bits<heed::accumulator_t<S>, 3>(a.lse, b.lse);
}

/// The worst error against e^lse weighted means, in units of the page's accuracy.
template <class S>
double merge_error(const state<S>& a, const state<S>& b, const state<S>& c) {
  constexpr double u = roundoff<heed::accumulator_t<S>>;
  double worst = 0;
  for (index_t n = 0; n < 2; ++n)
    for (index_t h = 0; h < 3; ++h)
      for (index_t i = 0; i < 11; ++i) {
        const auto x = static_cast<double>(a.lse(n, h, i)), y = static_cast<double>(b.lse(n, h, i));
        const double top = std::max(x, y);
        if (top == minus_infinity) {
          worst = worse(worst, relative_to(static_cast<double>(c.lse(n, h, i)), minus_infinity, 1));
          continue;
        }
        const double total = std::exp(x - top) + std::exp(y - top), lse = top + std::log(total);
        worst = worse(worst, relative_to(static_cast<double>(c.lse(n, h, i)), lse, 4 * u * (std::fabs(lse) + 1)));
        for (index_t e = 0; e < 21; ++e) {
          const auto p = static_cast<double>(a.out(n, h, i, e)), q = static_cast<double>(b.out(n, h, i, e));
          const double out = (std::exp(x - top) * p + std::exp(y - top) * q) / total;
          const double allowed =
              4 * u * (std::fabs(p) + std::fabs(q)) + (sizeof(S) == 2 ? roundoff<S> * std::fabs(out) : 0);
          worst = worse(worst, relative_to(static_cast<double>(c.out(n, h, i, e)), out, allowed));
        }
      }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("keys split anywhere and merged are the whole", "", float, double) {
  const index_t M = 200;
  problem<TestType> p({2, 4, 2, 70, M, 33, 20});
  const auto expected = reference::softmax<TestType>(p.q, p.k, p.v);
  for (const index_t cut : {0, 1, 64, 127, 128, 129, 199, 200}) {
    const auto whole = merged(attend(p, 0, cut), attend(p, cut, M));
    CAPTURE(cut);
    CHECK(worst_error<TestType>(whole.out, whole.lse, expected) <= 1);
  }
}

TEMPLATE_TEST_CASE("merging is as accurate as it says", "", float, double, heed::bfloat16, heed::float16) {
  support::random_engine random(41);
  for (const double size : {1.0, 20.0, 1e4}) {
    const auto a = random_state<TestType>(random, size), b = random_state<TestType>(random, size);
    CAPTURE(size, heed::dtype_name<TestType>);
    CHECK(merge_error(a, b, merged(a, b)) <= 1);
  }
}

TEMPLATE_TEST_CASE("the empty state changes nothing, bit for bit, from either side", "", float, double,
                   heed::bfloat16) {
  support::random_engine random(42);
  const auto a = random_state<TestType>(random, 5);
  CHECK(same_state(merged(a, empty_state<TestType>()), a));
  CHECK(same_state(merged(empty_state<TestType>(), a), a));
  CHECK(same_state(merged(empty_state<TestType>(), empty_state<TestType>()), empty_state<TestType>()));
}

TEST_CASE("what an empty state holds as output is not read") {
  support::random_engine random(43);
  const auto a = random_state<float>(random, 5);
  auto empty = empty_state<float>();
  empty.out.fill(support::quiet_nan<float>);
  CHECK(same_state(merged(a, empty), a));
  CHECK(same_state(merged(empty, a), a));
}

TEST_CASE("merging commutes and associates up to rounding") {
  support::random_engine random(44);
  const auto a = random_state<double>(random, 3), b = random_state<double>(random, 3),
             c = random_state<double>(random, 3);
  const auto ab_c = merged(merged(a, b), c), a_bc = merged(a, merged(b, c)), ba = merged(b, a), ab = merged(a, b);
  for (index_t i = 0; i < ab.out.size(); ++i) {
    CHECK(std::fabs(ab_c.out.data()[i] - a_bc.out.data()[i]) < 1e-14);
    CHECK(std::fabs(ab.out.data()[i] - ba.out.data()[i]) < 1e-14);
  }
  for (index_t i = 0; i < ab.lse.size(); ++i) CHECK(std::fabs(ab_c.lse.data()[i] - a_bc.lse.data()[i]) < 1e-14);
}

TEST_CASE("a result may take the place of an operand, and lse may be left out") {
  support::random_engine random(45);
  const auto a = random_state<float>(random, 3), b = random_state<float>(random, 3), expected = merged(a, b);
  state<float> first = a, second = b, without = a;
  softmax_merge(first.out, first.lse, b.out, b.lse, first.out, first.lse);
  softmax_merge(a.out, a.lse, second.out, second.lse, second.out, second.lse);
  softmax_merge(a.out, a.lse, b.out, b.lse, without.out);
  CHECK(same_state(first, expected));
  CHECK(same_state(second, expected));
  CHECK(same_bits<float, 4>(without.out, expected.out));
}

TEST_CASE("strides change no bit of a merge, and nothing outside is written") {
  support::random_engine random(46);
  const auto a = random_state<float>(random, 3), b = random_state<float>(random, 3), expected = merged(a, b);
  for (const support::layout where : support::layouts) {
    support::guarded<float, 4> out({2, 3, 11, 21}, where, support::quiet_nan<float>, -777.f);
    support::guarded<float, 3> lse({2, 3, 11}, where, support::quiet_nan<float>, -777.f);
    softmax_merge(a.out, a.lse, b.out, b.lse, out.all(), lse.all());
    CHECK(same_bits<float, 4>(out.all(), expected.out));
    CHECK(same_bits<float, 3>(lse.all(), expected.lse));
    CHECK(out.intact());
    CHECK(lse.intact());
  }
}

TEST_CASE("softmax_merge refuses what does not fit together") {
  using Catch::Matchers::ContainsSubstring;
  support::random_engine random(47);
  auto a = random_state<float>(random, 3), b = random_state<float>(random, 3), c = random_state<float>(random, 3);
  const auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const heed::invalid_argument& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  CHECK_THAT(message([&] { softmax_merge(a.out, a.lse, b.out.all().slice(2, 0, 10), b.lse, c.out, c.lse); }),
             ContainsSubstring("heed::softmax_merge: out_b.extent(2): expected 11") && ContainsSubstring("got 10"));
  CHECK_THAT(message([&] { softmax_merge(a.out, a.lse, b.out, b.lse.all().slice(1, 0, 2), c.out, c.lse); }),
             ContainsSubstring("lse_b.extent(1)"));
  CHECK_THAT(message([&] { softmax_merge(a.out, a.lse, b.out, b.lse, c.out.all().slice(3, 0, 20), c.lse); }),
             ContainsSubstring("out.extent(3)"));
  CHECK_THAT(message([&] { softmax_merge(a.out, a.lse, b.out, b.lse, c.out, c.lse.all().slice(2, 0, 10)); }),
             ContainsSubstring("lse.extent(2)"));
  CHECK_THAT(message([&] {
               softmax_merge(view<const float, 4>(c.out.data(), {2, 3, 11, 21}, {1, 0, 0, 1}), a.lse, b.out, b.lse,
                             c.out, c.lse);
             }),
             ContainsSubstring("overlap"));
  CHECK_THAT(
      message([&] { softmax_merge(a.out, a.lse, b.out, b.lse, c.out, view<float, 3>(c.out.data() + 5, {2, 3, 11})); }),
      ContainsSubstring("overlap"));
  CHECK_THAT(message([&] { softmax_merge(a.out, a.lse, b.out, b.lse, c.out, c.lse.all().broadcast(1, 3)); }),
             ContainsSubstring("lse"));
  CHECK_THAT(
      message([&] { softmax_merge(a.out, view<const float, 3>(nullptr, {2, 3, 11}), b.out, b.lse, c.out, c.lse); }),
      ContainsSubstring("lse_a"));
}
