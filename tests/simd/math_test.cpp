#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/random.hpp"

#include <heed/simd/math.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

using heed::pack;

namespace {

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

template <class T, class A>
constexpr bool has_fma = heed::detail::has_avx512<A> || std::is_base_of_v<xsimd::neon64, A> ||
                         std::is_base_of_v<xsimd::fma3<xsimd::avx2>, A>;

/// Errors are measured in the wider of the two.
template <class T>
using exact_t = std::conditional_t<std::is_same_v<T, float>, double, long double>;

/// Arguments and exact values of a function, worked out once for all instruction sets.
template <class T>
struct samples {
  std::vector<T> x;
  std::vector<exact_t<T>> exact;

  template <class F>
  samples(T low, T high, F f) {
    support::random_engine random(3);
    std::uniform_real_distribution<T> uniform(low, high);
    const int count = support::small_grid() ? 1 << 10 : 1 << 16;
    for (int i = 0; i < count; ++i) add(uniform(random), f);
    add(low, f);
    add(high, f);
  }

  /// More of them between two powers of ten, on both sides of 0 if `both`.
  template <class F>
  samples& near_zero(double from, double to, bool both, F f) {
    support::random_engine random(4);
    std::uniform_real_distribution<double> exponent(from, to);
    const int count = support::small_grid() ? 1 << 8 : 1 << 14;
    for (int i = 0; i < count; ++i) add(static_cast<T>(std::pow(10.0, exponent(random)) * (both && i % 2 == 0 ? -1 : 1)), f);
    return *this;
  }

 private:
  template <class F>
  void add(T argument, F f) {
    x.push_back(argument);
    exact.push_back(f(static_cast<exact_t<T>>(argument)));
  }
};

/// The distance of two neighbors of T around an exact value.
template <class T>
exact_t<T> ulp(exact_t<T> value) {
  const int exponent = value == 0 ? std::numeric_limits<T>::min_exponent - 1 : std::max(std::ilogb(value), std::numeric_limits<T>::min_exponent - 1);
  return std::ldexp(exact_t<T>(1), exponent - std::numeric_limits<T>::digits + 1);
}

/// Calls f for all samples, a vector at a time, and measure(got, exact) for each lane; returns the largest.
template <class T, class A, class F, class Measure>
double worst(const samples<T>& s, F f, Measure measure) {
  constexpr std::size_t lanes = pack<T, A>::lanes;
  double largest = 0;
  T lane[lanes];
  for (std::size_t i = 0; i + lanes <= s.x.size(); i += lanes) {
    f(pack<T, A>::load(s.x.data() + i)).store(lane);
    for (std::size_t j = 0; j < lanes; ++j) {
      const auto error = static_cast<double>(measure(lane[j], s.exact[i + j]));
      if (!(error <= largest)) largest = error;
    }
  }
  return largest;
}

template <class T, class A, class F>
double worst_ulp(const samples<T>& s, F f) {
  return worst<T, A>(s, f, [](T got, exact_t<T> exact) { return std::abs(static_cast<exact_t<T>>(got) - exact) / ulp<T>(exact); });
}

template <class T, class A, class F>
T at(F f, T x) {
  T lane[pack<T, A>::lanes];
  f(pack<T, A>(x)).store(lane);
  bool alike = true;
  for (const T y : lane) alike = alike && (y == lane[0] || (std::isnan(y) && std::isnan(lane[0])));
  CHECK(alike);
  return lane[0];
}

}  // namespace

TEMPLATE_TEST_CASE("exp2 keeps 1 ulp, and its limits", "", float, double) {
  using T = TestType;
  constexpr T least = std::numeric_limits<T>::min_exponent - 1, most = std::numeric_limits<T>::max_exponent;
  const auto exact = [](auto x) { return std::exp2(x); };
  const samples<T> whole(least, std::nextafter(most, T(0)), exact), small = samples<T>(T(-2), T(2), exact).near_zero(-12, 0, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return exp2(x); };
    CHECK(worst_ulp<T, A>(whole, f) <= 1);
    CHECK(worst_ulp<T, A>(small, f) <= 1);
    for (int n = static_cast<int>(least); n < static_cast<int>(most); ++n) {
      if (at<T, A>(f, static_cast<T>(n)) == std::ldexp(T(1), n)) continue;
      CAPTURE(n);
      FAIL_CHECK("a power of two is not exact");
    }
    CHECK(at<T, A>(f, most) == infinity<T>);
    CHECK(at<T, A>(f, T(1e9)) == infinity<T>);
    CHECK(at<T, A>(f, infinity<T>) == infinity<T>);
    CHECK(at<T, A>(f, std::nextafter(least, -infinity<T>)) == 0);
    CHECK(at<T, A>(f, T(-1e9)) == 0);
    CHECK(at<T, A>(f, -infinity<T>) == 0);
    CHECK(std::isnan(at<T, A>(f, std::numeric_limits<T>::quiet_NaN())));
  });
}

TEMPLATE_TEST_CASE("exp keeps 1 ulp with fused multiply-add and 2 without, and its limits", "", float, double) {
  using T = TestType;
  const T least = std::log(std::numeric_limits<T>::min()), most = std::log(std::numeric_limits<T>::max());
  const auto exact = [](auto x) { return std::exp(x); };
  const samples<T> whole(std::nextafter(least, T(0)), std::nextafter(most, T(0)), exact);
  const samples<T> small = samples<T>(T(-2), T(2), exact).near_zero(-12, 0, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return exp(x); };
    const double allowed = has_fma<T, A> ? 1 : 2;
    CHECK(worst_ulp<T, A>(whole, f) <= allowed);
    CHECK(worst_ulp<T, A>(small, f) <= allowed);
    CHECK(at<T, A>(f, T(0)) == 1);
    CHECK(at<T, A>(f, most + 1) == infinity<T>);
    CHECK(at<T, A>(f, infinity<T>) == infinity<T>);
    CHECK(at<T, A>(f, T(-1e9)) == 0);
    CHECK(at<T, A>(f, -infinity<T>) == 0);
    CHECK(std::isnan(at<T, A>(f, std::numeric_limits<T>::quiet_NaN())));
  });
}

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

TEMPLATE_TEST_CASE("exp2_bounded, as softmax weights use it, keeps a relative error of 1.5e-7", "", float, double) {
  using T = TestType;
  using heed::detail::precision;
  constexpr T least = std::numeric_limits<T>::min_exponent - 1;
  const auto exact = [](auto x) { return std::exp2(x); };
  const samples<T> whole = samples<T>(least, T(126), exact).near_zero(-12, 1, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return heed::detail::exp2_bounded<precision::weight>(x); };
    const double allowed = std::is_same_v<T, float> ? 1.5e-7 : 2.3e-16;
    CHECK(worst<T, A>(whole, f, [](T got, exact_t<T> value) { return std::abs(static_cast<exact_t<T>>(got) / value - 1); }) <= allowed);
    for (int n = static_cast<int>(least); n <= 126; ++n) {
      if (at<T, A>(f, static_cast<T>(n)) == std::ldexp(T(1), n)) continue;
      CAPTURE(n);
      FAIL_CHECK("a power of two is not exact");
    }
    // Below the normal range: 0, or a subnormal number where the instruction gives one.
    for (const T x : {std::nextafter(least, -infinity<T>), least - 10, least - 1000, T(-1e9), std::numeric_limits<T>::lowest()}) {
      const T got = at<T, A>(f, x);
      CHECK(got >= 0);
      CHECK(got <= std::numeric_limits<T>::min());
    }
    CHECK(at<T, A>(f, -infinity<T>) == 0);
    CHECK(std::isnan(at<T, A>(f, std::numeric_limits<T>::quiet_NaN())));
    if constexpr (heed::detail::exp2_saturates<T, A>) CHECK(at<T, A>(f, T(1e6)) == infinity<T>);
  });
}
