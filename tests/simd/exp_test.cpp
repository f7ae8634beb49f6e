#include "simd/accuracy.hpp"

#include <bit>

using namespace simd_test;

TEMPLATE_TEST_CASE("exp2 keeps 1 ulp with fused multiply-add and 1.25 without, and its limits", "", float, double) {
  using T = TestType;
  constexpr T least = std::numeric_limits<T>::min_exponent - 1, most = std::numeric_limits<T>::max_exponent;
  const auto exact = [](auto x) { return std::exp2(x); };
  const samples<T> whole(least, std::nextafter(most, T(0)), exact),
      small = samples<T>(T(-2), T(2), exact).near_zero(-12, 0, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return exp2(x); };
    const double allowed = has_fma<A> ? 1 : 1.25;
    CHECK(worst_ulp<T, A>(whole, f) <= allowed);
    CHECK(worst_ulp<T, A>(small, f) <= allowed);
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

TEMPLATE_TEST_CASE("exp keeps 1.25 ulp with fused multiply-add and 2 without, and its limits", "", float, double) {
  using T = TestType;
  const T least = std::log(std::numeric_limits<T>::min()), most = std::log(std::numeric_limits<T>::max());
  const auto exact = [](auto x) { return std::exp(x); };
  const samples<T> whole(std::nextafter(least, T(0)), std::nextafter(most, T(0)), exact);
  const samples<T> small = samples<T>(T(-2), T(2), exact).near_zero(-12, 0, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return exp(x); };
    const double allowed = has_fma<A> ? 1.25 : 2;
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

TEMPLATE_TEST_CASE("exp2_bounded, as softmax weights use it, keeps a relative error of 2e-7", "", float, double) {
  using T = TestType;
  using heed::detail::precision;
  constexpr T least = std::numeric_limits<T>::min_exponent - 1;
  const auto exact = [](auto x) { return std::exp2(x); };
  const samples<T> whole = samples<T>(least, T(126), exact).near_zero(-12, 1, true, exact);
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto f = [](pack<T, A> x) { return heed::detail::exp2_bounded<precision::weight>(x); };
    const double allowed = std::is_same_v<T, float> ? 2e-7 : 2.3e-16;
    CHECK(worst<T, A>(whole, f, [](T got, exact_t<T> value) {
            return std::abs(static_cast<exact_t<T>>(got) / value - 1);
          }) <= allowed);
    for (int n = static_cast<int>(least); n <= 126; ++n) {
      if (at<T, A>(f, static_cast<T>(n)) == std::ldexp(T(1), n)) continue;
      CAPTURE(n);
      FAIL_CHECK("a power of two is not exact");
    }
    // Below the normal range: 0, or a subnormal number where the instruction gives one.
    for (const T x :
         {std::nextafter(least, -infinity<T>), least - 10, least - 1000, T(-1e9), std::numeric_limits<T>::lowest()}) {
      const T got = at<T, A>(f, x);
      CHECK(got >= 0);
      CHECK(got <= std::numeric_limits<T>::min());
    }
    CHECK(at<T, A>(f, -infinity<T>) == 0);
    CHECK(std::isnan(at<T, A>(f, std::numeric_limits<T>::quiet_NaN())));
    if constexpr (heed::detail::exp2_saturates<T, A>) CHECK(at<T, A>(f, T(1e6)) == infinity<T>);
  });
}

TEMPLATE_TEST_CASE("NaN stays NaN, whatever its bits", "", float, double) {
  using T = TestType;
  using heed::detail::precision;
  using bits = std::make_unsigned_t<heed::lane_int_t<T>>;
  constexpr int payload = std::numeric_limits<T>::digits - 1;
  constexpr bits quiet = bits(1) << (payload - 1), sign = bits(1) << (8 * sizeof(T) - 1),
                 every = (bits(1) << payload) - 1;
  const bits exponent = std::bit_cast<bits>(infinity<T>);
  // Exponents are made of low bits of the argument: all of these, quiet and signalling, and the ends of the payload.
  std::vector<bits> payloads{quiet, every, every ^ quiet, quiet >> 1};
  for (bits low = 1; low < 2 * bits(std::numeric_limits<T>::max_exponent); ++low) {
    payloads.push_back(low);
    payloads.push_back(quiet | low);
    payloads.push_back(every ^ low);
  }
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const auto stays = [&](auto f) {
      bool all_nan = true;
      T lane[pack<T, A>::lanes];
      for (const bits p : payloads)
        for (const bits s : {bits(0), sign}) {
          const std::vector<T> nan(pack<T, A>::lanes, std::bit_cast<T>(static_cast<bits>(s | exponent | p)));
          f(pack<T, A>::load(nan.data())).store(lane);
          for (const T y : lane) all_nan = all_nan && std::isnan(y);
        }
      return all_nan;
    };
    CHECK(stays([](pack<T, A> x) { return heed::detail::exp2_bounded<precision::weight>(x); }));
    CHECK(stays([](pack<T, A> x) { return heed::detail::exp2_bounded<precision::full>(x); }));
    CHECK(stays([](pack<T, A> x) { return exp2(x); }));
    CHECK(stays([](pack<T, A> x) { return exp(x); }));
    CHECK(stays([](pack<T, A> x) { return sigmoid(x); }));
    CHECK(stays([](pack<T, A> x) { return tanh(x); }));
  });
}
