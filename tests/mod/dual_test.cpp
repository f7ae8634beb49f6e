// Dual numbers against the mathematics library and central differences.
#include <heed/mod/dual.hpp>
#include <heed/simd/math.hpp>

#include "reference/differences.hpp"
#include "support/catch.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

using heed::dual;
using heed::pack;

namespace {

/// The value, and the slope, of f at x in every lane of packs, relative to those in double.
template <class T, class F>
double error_on_packs(const F& f, double x, const dual<double>& expected) {
  const auto y = f(dual<pack<T>>::variable(pack<T>(x)));
  double worst = 0;
  T value[pack<T>::lanes], slope[pack<T>::lanes];
  y.value.store(value);
  y.partial[0].store(slope);
  for (int i = 0; i < pack<T>::lanes; ++i)
    for (const auto& [got, wanted] : {std::pair{value[i], expected.value}, {slope[i], expected.partial[0]}})
      worst = std::max(worst, std::fabs(double(got) - wanted) / (1 + std::fabs(wanted)));
  return worst;
}

/// f, called with numbers, dual numbers and those of packs, at points where it is smooth. `exact`: in double.
template <class F, class Exact>
void check_function(const char* name, const F& f, const Exact& exact, const std::vector<double>& points) {
  for (const double x : points) {
    CAPTURE(name, x);
    const dual<double, 2> y = f(dual<double, 2>::variable(x, 1));
    CHECK(y.value == f(x));
    CHECK(std::fabs(y.value - exact(x)) <= 1e-14 * (1 + std::fabs(y.value)));
    std::vector<double> at{x};
    const double slope = reference_test::differences(at, [&] { return exact(at[0]); })[0];
    CHECK(std::fabs(y.partial[1] - slope) <= 1e-9 * (1 + std::fabs(slope)));
    CHECK(y.partial[0] == 0);
    const dual<double> single = f(dual<double>::variable(x));
    CHECK(error_on_packs<double>(f, x, single) <= 1e-14);
    CHECK(error_on_packs<float>(f, x, single) <= 1e-5);
  }
}

const std::vector<double> everywhere{-2.5, -0.75, 0, 0.5, 3}, positive{0.5, 1, 3.25}, nonzero{-2.5, -0.5, 0.5, 3.25};

}  // namespace

TEST_CASE("arithmetic of dual numbers, with each other and with constants") {
  const auto same = [](const char* name, const auto& f, const std::vector<double>& points) {
    check_function(name, f, f, points);
  };
  same("-x", [](auto x) { return -x; }, everywhere);
  same("x + c", [](auto x) { return x + 3 + (0.5f + x); }, everywhere);
  same("x - c", [](auto x) { return (x - 3) * (0.5f - x); }, everywhere);
  same("c x", [](auto x) { return 3 * x + x * 0.25; }, everywhere);
  same("x / c", [](auto x) { return x / 4 + 3 / x; }, nonzero);
  same("x x", [](auto x) { return x * x - x; }, everywhere);
  same("x / y", [](auto x) { return (x - 1) / (x * x + 2); }, everywhere);
  same(
      "assignments",
      [](auto x) {
        auto y = x;
        y += x * x;
        y *= 2;
        y -= 1;
        y /= x * x + 1;
        return y;
      },
      everywhere);
}

TEST_CASE("functions of dual numbers, found with and without heed::") {
  check_function("exp", [](auto x) { return heed::exp(x); }, [](double x) { return std::exp(x); }, everywhere);
  check_function("exp2", [](auto x) { return heed::exp2(x); }, [](double x) { return std::exp2(x); }, everywhere);
  check_function("log", [](auto x) { return heed::log(x); }, [](double x) { return std::log(x); }, positive);
  check_function(
      "log1p", [](auto x) { return heed::log1p(x); }, [](double x) { return std::log1p(x); }, {-0.5, 0, 0.5, 3.25});
  check_function("sqrt", [](auto x) { return heed::sqrt(x); }, [](double x) { return std::sqrt(x); }, positive);
  check_function("tanh", [](auto x) { return heed::tanh(x); }, [](double x) { return std::tanh(x); }, everywhere);
  check_function(
      "sigmoid", [](auto x) { return heed::sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }, everywhere);
  check_function(
      "unqualified",
      [](auto x) {
        using namespace heed;
        return log1p(exp(x)) + sigmoid(exp2(x)) + tanh(x) * sqrt(x + 4) + log(x + 4);
      },
      [](double x) {
        return std::log1p(std::exp(x)) + 1 / (1 + std::exp(-std::exp2(x))) + std::tanh(x) * std::sqrt(x + 4) +
               std::log(x + 4);
      },
      everywhere);
}

TEST_CASE("powers of dual numbers with constant exponents") {
  const auto check = [](double exponent, const std::vector<double>& points) {
    CAPTURE(exponent);
    check_function(
        "pow", [=](auto x) { return heed::pow(x, exponent); }, [=](double x) { return std::pow(x, exponent); }, points);
  };
  for (const double whole : {0, 1, 2, 3, 7}) check(whole, everywhere);
  for (const double whole : {-1, -2, -3}) check(whole, nonzero);
  for (const double exponent : {-1.5, -0.5, 0.25, 0.5, 2.5, 3.75}) check(exponent, positive);
  // At 0, where differences do not reach: slopes 0, 0, 1, 0 and infinity.
  const auto slope = [](double exponent) { return heed::pow(dual<double>::variable(0), exponent).partial[0]; };
  const auto slope_of_pack = [](double exponent) {
    return reduce_max(heed::pow(dual<pack<float>>::variable(pack<float>(0)), exponent).partial[0]);
  };
  for (const double exponent : {0.0, 1.5, 2.0}) {
    CHECK(slope(exponent) == 0);
    CHECK(slope_of_pack(exponent) == 0);
  }
  CHECK(slope(1) == 1);
  CHECK(slope_of_pack(1) == 1);
  CHECK(slope(0.5) == std::numeric_limits<double>::infinity());
  CHECK(slope_of_pack(0.5) == std::numeric_limits<float>::infinity());
}

TEST_CASE("choices between dual numbers, and their kinks") {
  const auto same = [](const char* name, const auto& f, const std::vector<double>& points) {
    check_function(name, f, f, points);
  };
  same("abs", [](auto x) { return heed::abs(x); }, nonzero);
  same("min", [](auto x) { return heed::min(x * x, 1) + heed::min(0.25, x); }, nonzero);
  same("max", [](auto x) { return heed::max(x * x, 1) + heed::max(0.25, x); }, nonzero);
  same("select", [](auto x) { return heed::select(x > 0, x * x, -x) + heed::select(x <= 1, 3, x); }, nonzero);
  const auto x = dual<double, 2>::variable(2, 0), y = dual<double, 2>::variable(2, 1);
  CHECK(min(x, y).partial[0] == 1);
  CHECK(min(x, y).partial[1] == 0);
  CHECK(max(y, x).partial[1] == 1);
  CHECK(max(y, x).partial[0] == 0);
  CHECK(abs(dual<double>::variable(0)).partial[0] == 0);
  CHECK((x == y && x <= y && x >= y && !(x != y) && !(x < y) && !(x > y)));
  STATIC_REQUIRE(std::is_same_v<decltype(dual<pack<float>>() < dual<pack<float>>()), heed::mask_pack<float>>);
}
