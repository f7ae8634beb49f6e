#include "support/catch.hpp"

#include <heed/core/float16.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <type_traits>

using heed::bfloat16;
using heed::float16;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

struct format {
  int fraction_bits, smallest_exponent;
  double largest;
};
constexpr format format_of(bfloat16) { return {7, -126, 255.0 / 128 * 0x1p127}; }
constexpr format format_of(float16) { return {10, -14, 65504.0}; }

/// What rounding to nearest even must give, from the definition.
template <class T>
double nearest(double x) {
  const format f = format_of(T{});
  if (x == 0 || std::isinf(x)) return x;
  const int exponent = std::max(std::ilogb(x), f.smallest_exponent);
  const double spacing = std::ldexp(1.0, exponent - f.fraction_bits);
  const double rounded = std::nearbyint(x / spacing) * spacing;
  return std::fabs(rounded) > f.largest ? std::copysign(double(infinity), x) : rounded;
}

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Equal, the sign of zero included.
bool same(double a, double b) { return a == b && std::signbit(a) == std::signbit(b); }

}  // namespace

TEMPLATE_TEST_CASE("16-bit floats are plain storage", "", bfloat16, float16) {
  STATIC_REQUIRE(sizeof(TestType) == 2);
  STATIC_REQUIRE(std::is_trivially_copyable_v<TestType>);
  STATIC_REQUIRE(std::is_trivially_default_constructible_v<TestType>);
  STATIC_REQUIRE(std::is_convertible_v<TestType, float>);
  STATIC_REQUIRE(!std::is_convertible_v<float, TestType>);
  STATIC_REQUIRE(!std::is_convertible_v<double, TestType>);
  STATIC_REQUIRE(TestType{}.bits == 0);
  STATIC_REQUIRE(TestType(1) == 1.0f);
  STATIC_REQUIRE(TestType(-2.5) == -2.5f);
  STATIC_REQUIRE(std::is_same_v<decltype(TestType(1) * TestType(2)), float>);
  STATIC_REQUIRE((-TestType(3)).bits == TestType(-3).bits);
}

TEMPLATE_TEST_CASE("every 16-bit pattern survives the way through float", "", bfloat16, float16) {
  int wrong = 0;
  for (std::uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto value = TestType::from_bits(static_cast<std::uint16_t>(pattern));
    const float wide = value;
    const TestType from_float(wide), from_double(static_cast<double>(wide));
    if (std::isnan(wide))
      wrong += !std::isnan(float(from_float)) || !std::isnan(float(from_double)) ||
               (from_float.bits & 0x8000) != (value.bits & 0x8000);
    else
      wrong += from_float.bits != value.bits || from_double.bits != value.bits;
  }
  CHECK(wrong == 0);
}

TEST_CASE("float16 patterns mean what the standard says") {
  CHECK(float(float16::from_bits(0x0001)) == 0x1p-24f);
  CHECK(float(float16::from_bits(0x03ff)) == 1023 * 0x1p-24f);
  CHECK(float(float16::from_bits(0x0400)) == 0x1p-14f);
  CHECK(float(float16::from_bits(0x3c00)) == 1.0f);
  CHECK(float(float16::from_bits(0x3555)) == 0x1.554p-2f);
  CHECK(float(float16::from_bits(0x7bff)) == 65504.0f);
  CHECK(float(float16::from_bits(0xfc00)) == -infinity);
  CHECK(std::isnan(float(float16::from_bits(0x7c01))));
  int wrong = 0;
  for (int pattern = 0; pattern < 0x7c00; ++pattern) {
    const int exponent = pattern >> 10, fraction = pattern & 0x3ff;
    const double meant = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    wrong += !same(float16::from_bits(static_cast<std::uint16_t>(pattern)), meant);
    wrong += !same(float16::from_bits(static_cast<std::uint16_t>(pattern | 0x8000)), -meant);
  }
  CHECK(wrong == 0);
}

TEST_CASE("bfloat16 patterns mean what the standard says") {
  CHECK(float(bfloat16::from_bits(0x3f80)) == 1.0f);
  CHECK(float(bfloat16::from_bits(0x4049)) == 3.140625f);
  CHECK(float(bfloat16::from_bits(0x0001)) == 0x1p-133f);
  CHECK(float(bfloat16::from_bits(0xff80)) == -infinity);
  CHECK(std::isnan(float(bfloat16::from_bits(0x7f81))));
}

TEMPLATE_TEST_CASE("rounding from float and double is to nearest even", "", bfloat16, float16) {
  // Around every value: the midpoint to its successor (a tie) and the closest numbers on both sides of it.
  int wrong = 0;
  long cases = 0;
  const std::uint16_t infinity_bits = TestType(infinity).bits;
  const auto check = [&](double x) {
    const double expected = nearest<TestType>(x);
    const auto narrow = static_cast<float>(x);
    wrong += !same(TestType(x), expected);
    wrong += !same(TestType(narrow), nearest<TestType>(narrow));
    ++cases;
  };
  for (std::uint16_t pattern = 0; pattern < infinity_bits; ++pattern) {
    const double low = TestType::from_bits(pattern);
    const format f = format_of(TestType{});
    const double spacing =
        std::ldexp(1.0, std::max(low == 0 ? -2000 : std::ilogb(low), f.smallest_exponent) - f.fraction_bits);
    const double middle = low + spacing / 2;
    for (const double x : {low, middle, std::nextafter(middle, 0.0), std::nextafter(middle, 1e300),
                           double(std::nextafter(float(middle), 0.0f)), double(std::nextafter(float(middle), infinity)),
                           low + spacing / 4, low + spacing * 3 / 4}) {
      check(x);
      check(-x);
    }
  }
  CHECK(cases > 500000);
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("rounding agrees with the definition over all exponents of float", "", bfloat16, float16) {
  std::mt19937 random(3);
  int wrong = 0;
  for (std::uint32_t exponent = 0; exponent < 255; ++exponent)
    for (int trial = 0; trial < 500; ++trial) {
      const float x = float_of((random() & 0x807fffffu) | (exponent << 23));
      wrong += !same(TestType(x), nearest<TestType>(x));
    }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("NaN stays NaN and what is too large becomes infinity", "", bfloat16, float16) {
  int wrong = 0;
  for (std::uint32_t fraction = 1; fraction < 0x800000u; fraction = fraction * 2 + 1)
    for (const std::uint32_t payload : {fraction, 0x800000u - fraction})
      for (const std::uint32_t sign : {0u, 0x80000000u}) {
        const TestType rounded(float_of(sign | 0x7f800000u | payload));
        wrong += !std::isnan(float(rounded)) || (rounded.bits >> 15) != (sign >> 31);
      }
  CHECK(wrong == 0);
  CHECK(std::isnan(float(TestType(double(quiet_nan)))));
  CHECK(TestType(infinity) == infinity);
  CHECK(TestType(-infinity) == -infinity);
  CHECK(TestType(std::numeric_limits<float>::max()) == infinity);
  CHECK(TestType(-1e300) == -infinity);
  CHECK(TestType(double(infinity)) == infinity);
}

TEST_CASE("float16 overflows at 65520") {
  CHECK(float16(65519.996f) == 65504.0f);
  CHECK(float16(65520.0f) == infinity);
  CHECK(float16(65519.9999999) == 65504.0f);
  CHECK(float16(70000) == infinity);
}

TEST_CASE("rounding from double happens once") {
  // Through float these would first become a tie and then round to even, away from the nearest value.
  CHECK(bfloat16(1.0 + 0x1p-8 + 0x1p-40).bits == bfloat16(1.0f + 0x1p-7f).bits);
  CHECK(float16(1.0 + 0x1p-11 + 0x1p-40).bits == float16(1.0f + 0x1p-10f).bits);
  CHECK(float16(0x1p-25 + 0x1p-60).bits == 1);
  CHECK(float16(0x1p-25).bits == 0);
}

TEMPLATE_TEST_CASE("16-bit floats compare as floats", "", bfloat16, float16) {
  const TestType one(1.0f), two(2.0f), nan(quiet_nan);
  CHECK(one < two);
  CHECK(two >= one);
  CHECK(one == TestType(1));
  CHECK(one != two);
  CHECK(TestType(0.0f) == TestType(-0.0f));
  CHECK_FALSE(nan == nan);
  CHECK_FALSE(nan < one);
  CHECK(one + two == 3.0f);
  CHECK(bits_of(float(TestType(-0.0f))) == 0x80000000u);
}

TEST_CASE("16-bit floats convert to each other through float") {
  CHECK(bfloat16(float16(0.5f)) == 0.5f);
  CHECK(float16(bfloat16(3.0f)) == 3.0f);
  CHECK(float16(bfloat16(1e30f)) == infinity);
}

TEST_CASE("element types, accumulators and names") {
  STATIC_REQUIRE(heed::element<float>);
  STATIC_REQUIRE(heed::element<double>);
  STATIC_REQUIRE(heed::element<bfloat16>);
  STATIC_REQUIRE(heed::element<float16>);
  STATIC_REQUIRE(!heed::element<const float>);
  STATIC_REQUIRE(!heed::element<int>);
  STATIC_REQUIRE(!heed::element<long double>);
  STATIC_REQUIRE(std::is_same_v<heed::accumulator_t<double>, double>);
  STATIC_REQUIRE(std::is_same_v<heed::accumulator_t<float>, float>);
  STATIC_REQUIRE(std::is_same_v<heed::accumulator_t<bfloat16>, float>);
  STATIC_REQUIRE(std::is_same_v<heed::accumulator_t<float16>, float>);
  CHECK(std::string(heed::dtype_name<float>) == "float");
  CHECK(std::string(heed::dtype_name<double>) == "double");
  CHECK(std::string(heed::dtype_name<bfloat16>) == "bfloat16");
  CHECK(std::string(heed::dtype_name<float16>) == "float16");
}
