/// The accuracy of functions of packs: their error in units of the distance of neighboring numbers.
#pragma once

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

namespace simd_test {

using heed::pack;

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();

/// Whether multiply-add rounds once.
template <class A>
inline constexpr bool has_fma =
#if HEED_XSIMD
    heed::detail::has_avx512<A> || std::is_base_of_v<xsimd::neon64, A> ||
    std::is_base_of_v<xsimd::fma3<xsimd::avx2>, A>;
#else
    false;
#endif
#if defined(__FP_FAST_FMAF) && defined(__FP_FAST_FMA)
template <>
inline constexpr bool has_fma<heed::portable> = true;
#endif

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
    for (int i = 0; i < count; ++i)
      add(static_cast<T>(std::pow(10.0, exponent(random)) * (both && i % 2 == 0 ? -1 : 1)), f);
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
  const int exponent = value == 0 ? std::numeric_limits<T>::min_exponent - 1
                                  : std::max(std::ilogb(value), std::numeric_limits<T>::min_exponent - 1);
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
  return worst<T, A>(
      s, f, [](T got, exact_t<T> exact) { return std::abs(static_cast<exact_t<T>>(got) - exact) / ulp<T>(exact); });
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

}  // namespace simd_test
