#include <heed/mod/scalar.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

using Catch::Approx;

TEST_CASE("choices keep the common type") {
  STATIC_REQUIRE(std::is_same_v<decltype(heed::max(1.f, 0)), float>);
  STATIC_REQUIRE(std::is_same_v<decltype(heed::min(0, 1.0)), double>);
  STATIC_REQUIRE(std::is_same_v<decltype(heed::select(true, 0, 1.5f)), float>);
  CHECK(heed::select(true, 0, 1.5f) == 0.f);
  CHECK(heed::select(false, 0, 1.5f) == 1.5f);
  CHECK(heed::max(-1.5, 0) == 0.0);
  CHECK(heed::min(-1.5, 0) == -1.5);
  CHECK(heed::abs(-3) == 3);
  CHECK(heed::abs(-2.5f) == 2.5f);
  CHECK_FALSE(std::signbit(heed::abs(-0.0)));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(heed::max(nan, 2.0) == 2.0);
  CHECK(std::isnan(heed::max(2.0, nan)));
  CHECK(heed::min(nan, 2.0) == 2.0);
}

TEMPLATE_TEST_CASE("elementary functions are those of the mathematics library", "", float, double) {
  using T = TestType;
  for (const T x : {T(0.1), T(1), T(7.5)}) {
    CHECK(heed::exp(-x) == std::exp(-x));
    CHECK(heed::exp2(-x) == std::exp2(-x));
    CHECK(heed::log(x) == std::log(x));
    CHECK(heed::log1p(x) == std::log1p(x));
    CHECK(heed::tanh(-x) == std::tanh(-x));
    CHECK(heed::sqrt(x) == std::sqrt(x));
    CHECK(heed::pow(x, 2.5) == std::pow(x, T(2.5)));
    CHECK(heed::pow(-x, 3) == std::pow(-x, T(3)));
    CHECK(heed::sigmoid(x) == Approx(1 / (1 + std::exp(-static_cast<double>(x)))).epsilon(1e-6));
  }
  CHECK(heed::sigmoid(T(-1e4)) == T(0));
  CHECK(heed::sigmoid(T(1e4)) == T(1));
  STATIC_REQUIRE(std::is_same_v<decltype(heed::exp(T(1))), T>);
}

TEST_CASE("floor_mod, floor_div round toward minus infinity") {
  for (int a = -23; a <= 23; ++a)
    for (int r = 1; r <= 9; ++r) {
      const int quotient = static_cast<int>(std::floor(static_cast<double>(a) / r));
      CHECK(heed::floor_div(a, r) == quotient);
      CHECK(heed::floor_mod(a, r) == a - quotient * r);
    }
}

TEST_CASE("lookup never reads outside the table") {
  const float values[] = {1, 2, 3, 4, 5, 6};
  const heed::view<const float, 1> all(values, {6}), every_second(values, {3}, {2}), none;
  for (int i = -3; i < 9; ++i) {
    CHECK(heed::lookup(all, i, -1) == (i >= 0 && i < 6 ? static_cast<float>(i + 1) : -1.f));
    CHECK(heed::lookup(every_second, i, -1) == (i >= 0 && i < 3 ? static_cast<float>(2 * i + 1) : -1.f));
    CHECK(heed::lookup(none, i, 7) == 7.f);
  }
  CHECK(heed::lookup(all, std::numeric_limits<int>::min(), 7) == 7.f);
}

TEST_CASE("to_real") {
  STATIC_REQUIRE(std::is_same_v<decltype(heed::to_real(1.f, 3)), float>);
  CHECK(heed::to_real(0.0, -7) == -7.0);
}
