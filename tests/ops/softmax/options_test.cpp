#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"

#include <limits>

using namespace softmax_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

}  // namespace

TEMPLATE_TEST_CASE("scale is any finite number: zero, negative, large", "", float, double) {
  for (const double scale : {0.0, 1.0, -0.3, 1e-6, 7.0, -1e-30}) {
    problem<TestType> p({2, 2, 1, 33, 140, 24, 17});
    CAPTURE(scale);
    CHECK(error_of<TestType>(p, {.scale = scale}) <= 1);
  }
}

TEST_CASE("scale defaults to 1 / sqrt(D)") {
  problem<float> given({1, 2, 2, 9, 40, 25, 8}), not_given({1, 2, 2, 9, 40, 25, 8});
  heed::softmax_forward(given.q, given.k, given.v, given.out, {.scale = 0.2, .lse = given.lse});
  heed::softmax_forward(not_given.q, not_given.k, not_given.v, not_given.out, {.lse = not_given.lse});
  CHECK(same_result(given, not_given));
}

TEMPLATE_TEST_CASE("softcap bounds the scaled scores, before bias and masks", "", float, double) {
  for (const double cap : {0.5, 3.0, 30.0})
    for (const bool with_bias : {false, true})
      for (const index_t right : {-1, 0}) {
        problem<TestType> p({1, 3, 1, 40, 150, 16, 20});
        for (TestType& x : p.q) x *= 5;
        const auto bias = support::normal_tensor<TestType, 4>({1, 3, 40, 150}, p.random, 4);
        softmax_options<TestType> options{.softcap = cap, .window_right = right};
        if (with_bias) options.bias = bias;
        CAPTURE(cap, with_bias, right);
        CHECK(error_of<TestType>(p, options) <= 1);
      }
}

TEMPLATE_TEST_CASE("a sink joins the denominator, once per row", "", float, double, heed::bfloat16) {
  using T = heed::accumulator_t<TestType>;
  for (const index_t M : {0, 1, 130, 400})
    for (const index_t right : {-1, 0}) {
      problem<TestType> p({2, 4, 2, 70, M, 16, 24});
      tensor<T, 1> sink({4});
      sink(0) = T(0.3);
      sink(1) = T(12);
      sink(2) = -std::numeric_limits<T>::infinity();
      sink(3) = T(-40);
      CAPTURE(M, right);
      CHECK(error_of<TestType>(p, {.sink = sink, .window_right = right}) <= 1);
    }
}

TEST_CASE("a sink far above or below every score") {
  for (const float logit : {-1e4f, -200.f, 200.f, 1e4f}) {
    problem<float> p({1, 1, 1, 20, 30, 8, 8});
    const auto sink = tensor<float, 1>::full({1}, logit);
    CAPTURE(logit);
    CHECK(error_of<float>(p, {.sink = sink}) <= 1);
    CHECK(all_finite(p.out));
  }
}

TEST_CASE("window_left and window_right in all combinations of bounded and unbounded") {
  for (const auto& [N, M] : {std::pair<index_t, index_t>{70, 70}, {1, 300}, {20, 150}, {150, 20}})
    for (const index_t left : {-1, 0, 1, 15, 16, 127, 500})
      for (const index_t right : {-1, 0, 1, 17, 128, 500}) {
        problem<float> p({1, 2, 2, N, M, 8, 12});
        CAPTURE(N, M, left, right);
        CHECK(error_of<float>(p, {.window_left = left, .window_right = right}) <= 1);
      }
}

TEST_CASE("windows wider than any int mean everything") {
  problem<float> p({1, 1, 1, 20, 30, 8, 8}), all({1, 1, 1, 20, 30, 8, 8});
  constexpr index_t wide = std::numeric_limits<index_t>::max() / 4;
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .window_left = wide, .window_right = wide});
  heed::softmax_forward(all.q, all.k, all.v, all.out, {.lse = all.lse});
  CHECK(same_result(p, all));
}

TEST_CASE("q_offset and kv_offset move the positions that windows see") {
  for (const index_t q_offset : {-200, -31, 0, 5, 100, 1000000000})
    for (const index_t kv_offset : {-100, 0, 7, 90, 1000000000})
      for (const index_t left : {-1, 20}) {
        problem<float> p({1, 2, 1, 60, 140, 8, 8});
        CAPTURE(q_offset, kv_offset, left);
        CHECK(error_of<float>(
                  p, {.window_left = left, .window_right = 0, .q_offset = q_offset, .kv_offset = kv_offset}) <= 1);
      }
}

TEST_CASE("q_offset defaults to M - N: the last query stands at the last key") {
  for (const index_t N : {5, 40, 200}) {
    problem<float> given({1, 1, 1, N, 60, 8, 8}), not_given({1, 1, 1, N, 60, 8, 8});
    heed::softmax_forward(given.q, given.k, given.v, given.out,
                          {.lse = given.lse, .window_right = 0, .q_offset = 60 - N});
    heed::softmax_forward(not_given.q, not_given.k, not_given.v, not_given.out,
                          {.lse = not_given.lse, .window_right = 0});
    CHECK(same_result(given, not_given));
  }
}

TEST_CASE("lse is the natural log of the denominator, and asking for it changes nothing") {
  problem<double> p({1, 1, 1, 1, 2, 1, 1});
  p.q(0, 0, 0, 0) = 1;
  p.k(0, 0, 0, 0) = 0;
  p.k(0, 0, 1, 0) = std::log(3.0);
  p.v(0, 0, 0, 0) = 0;
  p.v(0, 0, 1, 0) = 1;
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse});
  CHECK(p.lse(0, 0, 0) == Catch::Approx(std::log(4.0)).epsilon(1e-15));
  CHECK(p.out(0, 0, 0, 0) == Catch::Approx(0.75).epsilon(1e-15));

  problem<float> with({2, 2, 1, 70, 130, 16, 16}), without({2, 2, 1, 70, 130, 16, 16});
  heed::softmax_forward(with.q, with.k, with.v, with.out, {.lse = with.lse});
  heed::softmax_forward(without.q, without.k, without.v, without.out);
  CHECK(same_bits<float, 4>(with.out, without.out));
  CHECK(std::none_of(with.lse.begin(), with.lse.end(), [](float x) { return std::isnan(x) || x == infinity; }));
}
