#include "simd/accuracy.hpp"

using namespace simd_test;

TEMPLATE_TEST_CASE("tanh keeps 6 ulp in float and 2 in double, is odd and stays within 1", "", float, double) {
  using T = TestType;
  const auto exact = [](auto x) { return std::tanh(x); };
  const samples<T> whole = samples<T>(T(-25), T(25), exact).near_zero(-12, 1, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return tanh(x); };
    CHECK(worst_ulp<T, A>(whole, f) <= (std::is_same_v<T, float> ? 6 : 2));
    CHECK(worst<T, A>(whole, f, [](T y, auto) { return std::fabs(y); }) <= 1);
    const auto both = [&](pack<T, A> x) { return tanh(x) + tanh(-x); };
    CHECK(worst<T, A>(whole, both, [](T y, auto) { return std::fabs(y); }) == 0);
    CHECK(at<T, A>(f, T(0)) == 0);
    CHECK(at<T, A>(f, infinity<T>) == 1);
    CHECK(at<T, A>(f, -infinity<T>) == -1);
    CHECK(at<T, A>(f, T(1e30)) == 1);
    CHECK(std::isnan(at<T, A>(f, std::numeric_limits<T>::quiet_NaN())));
  });
}

TEMPLATE_TEST_CASE("expm1 keeps 2 ulp, and its limits", "", float, double) {
  using T = TestType;
  const auto exact = [](auto x) { return std::expm1(x); };
  const samples<T> some = samples<T>(T(-40), T(40), exact).near_zero(-30, 0, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return expm1(x); };
    CHECK(worst_ulp<T, A>(some, f) <= 2);
    CHECK(at<T, A>(f, T(0)) == 0);
    CHECK(at<T, A>(f, -infinity<T>) == -1);
    CHECK(at<T, A>(f, infinity<T>) == infinity<T>);
    CHECK(std::isnan(at<T, A>(f, std::numeric_limits<T>::quiet_NaN())));
  });
}

TEMPLATE_TEST_CASE("log and log1p keep 2 ulp, and their limits", "", float, double) {
  using T = TestType;
  const auto exact = [](auto x) { return std::log(x); };
  const auto exact1p = [](auto x) { return std::log1p(x); };
  const samples<T> logs = samples<T>(T(0.01), T(100), exact).near_zero(-37, 37, false, exact);
  const samples<T> logs1p = samples<T>(T(-0.99), T(100), exact1p).near_zero(-12, 0, false, exact1p);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return log(x); };
    const auto f1p = [](pack<T, A> x) { return log1p(x); };
    CHECK(worst_ulp<T, A>(logs, f) <= 2);
    CHECK(worst_ulp<T, A>(logs1p, f1p) <= 2);
    CHECK(at<T, A>(f, T(1)) == 0);
    CHECK(at<T, A>(f, T(0)) == -infinity<T>);
    CHECK(at<T, A>(f, infinity<T>) == infinity<T>);
    CHECK(std::isnan(at<T, A>(f, T(-1))));
    CHECK(at<T, A>(f1p, T(0)) == 0);
    CHECK(at<T, A>(f1p, T(-1)) == -infinity<T>);
    CHECK(std::isnan(at<T, A>(f1p, T(-2))));
  });
}

TEMPLATE_TEST_CASE("sigmoid keeps 4 ulp, and goes to 0 and 1", "", float, double) {
  using T = TestType;
  const auto exact = [](auto x) { return 1 / (1 + std::exp(-x)); };
  const samples<T> whole = samples<T>(T(-80), T(80), exact).near_zero(-12, 1, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return sigmoid(x); };
    CHECK(worst_ulp<T, A>(whole, f) <= 4);
    CHECK(at<T, A>(f, T(0)) == T(0.5));
    CHECK(at<T, A>(f, infinity<T>) == 1);
    CHECK(at<T, A>(f, -infinity<T>) == 0);
  });
}

TEMPLATE_TEST_CASE("pow keeps |exponent| ulp for whole exponents, else 3 + 2 |log| of the result", "", float, double) {
  using T = TestType;
  for (const double exponent : {-7.0, -1.0, 0.0, 1.0, 2.0, 13.0, -2.5, -0.5, 0.25, 0.5, 1.5, 3.3}) {
    CAPTURE(exponent);
    const bool whole = std::floor(exponent) == exponent;
    // The exponent as the function gets it.
    const auto exact = [e = static_cast<T>(exponent)](auto x) { return std::pow(x, static_cast<decltype(x)>(e)); };
    const samples<T> some = samples<T>(T(whole ? -20 : 0.001), T(20), exact).near_zero(-2, 1, whole, exact);
    support::for_each_arch([&](auto arch) {
      using A = decltype(arch);
      CAPTURE(A::name());
      CHECK(worst<T, A>(
                some, [=](pack<T, A> x) { return pow(x, static_cast<T>(exponent)); },
                [=](T got, exact_t<T> value) {
                  const double allowed = whole ? std::fabs(exponent) + 0.5
                                               : 3 + 2 * std::fabs(static_cast<double>(std::log(std::abs(value))));
                  return std::abs(static_cast<exact_t<T>>(got) - value) / ulp<T>(value) / allowed;
                }) <= 1);
    });
  }
}

TEMPLATE_TEST_CASE("pow at 0, infinity and negative numbers", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto power = [](T x, double exponent) {
      return at<T, A>([=](pack<T, A> lanes) { return pow(lanes, static_cast<T>(exponent)); }, x);
    };
    CHECK(power(0, 0) == 1);
    CHECK(power(0, 0.5) == 0);
    CHECK(power(0, -0.5) == infinity<T>);
    CHECK(power(0, -2) == infinity<T>);
    CHECK(power(infinity<T>, 0.5) == infinity<T>);
    CHECK(power(infinity<T>, -0.5) == 0);
    CHECK(power(-3, 3) == -27);
    CHECK(std::isnan(power(-3, 0.5)));
    CHECK(std::isnan(power(std::numeric_limits<T>::quiet_NaN(), 1)));
  });
}
