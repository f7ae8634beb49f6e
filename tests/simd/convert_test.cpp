#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

#include <heed/core/float16.hpp>
#include <heed/simd/convert.hpp>
#include <heed/simd/transpose.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

using heed::bfloat16;
using heed::float16;
using heed::pack;

namespace {

template <class S>
bool same(S a, S b) {
  return std::memcmp(&a, &b, sizeof(S)) == 0 ||
         (std::isnan(static_cast<double>(a)) && std::isnan(static_cast<double>(b)));
}

/// Numbers that 16 bit hold and numbers that must be rounded, ties among them, large ones, small ones, special ones.
std::vector<double> numbers() {
  std::vector<double> x{0.0,
                        -0.0,
                        1.0,
                        -2.5,
                        1 + 0x1p-8,
                        1 + 0x3p-8,
                        1 + 0x1p-11,
                        1 + 0x3p-11,
                        65504,
                        65519,
                        65520,
                        -70000,
                        0x1p-14,
                        0x1p-24,
                        0x1p-25,
                        0x1.8p-25,
                        3e38,
                        std::numeric_limits<double>::infinity(),
                        -std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::quiet_NaN()};
  support::random_engine random(9);
  std::normal_distribution<double> normal;
  while (x.size() < 512) x.push_back(std::ldexp(normal(random), static_cast<int>(random() % 40) - 24));
  return x;
}

/// All lanes, and the first n for every n, in both directions.
template <class S, class T, class A>
void check_conversions() {
  using namespace heed::detail;
  constexpr int lanes = pack<T, A>::lanes;
  const std::vector<double> x = numbers();
  CAPTURE(A::name());
  bool loads = true, stores = true, stays_inside = true;
  for (std::size_t at = 0; at + lanes <= x.size(); at += lanes)
    for (int n = 0; n <= lanes; ++n) {
      std::vector<S> from;
      for (int i = 0; i < n; ++i) from.push_back(static_cast<S>(x[at + static_cast<std::size_t>(i)]));
      alignas(64) T lane[lanes];
      if (n == lanes) {
        load_as<T, A>(from.data()).store(lane);
        for (int i = 0; i < lanes; ++i)
          loads = loads && same(lane[i], static_cast<T>(from[static_cast<std::size_t>(i)]));
      }
      load_first_as<T, A>(from.data(), n).store(lane);
      for (int i = 0; i < lanes; ++i)
        loads = loads && same(lane[i], i < n ? static_cast<T>(from[static_cast<std::size_t>(i)]) : T(0));

      alignas(64) T wide[lanes];
      for (int i = 0; i < lanes; ++i) wide[i] = static_cast<T>(x[at + static_cast<std::size_t>(i)]);
      std::vector<S> to(static_cast<std::size_t>(lanes) + 1, static_cast<S>(-7.0));
      store_first_as(to.data(), pack<T, A>::load(wide), n);
      for (int i = 0; i <= lanes; ++i) {
        const bool right =
            same(to[static_cast<std::size_t>(i)], i < n ? static_cast<S>(wide[i]) : static_cast<S>(-7.0));
        (i < n ? stores : stays_inside) &= right;
      }
      if (n == lanes) {
        store_as(to.data(), pack<T, A>::load(wide));
        for (int i = 0; i < lanes; ++i)
          stores = stores && same(to[static_cast<std::size_t>(i)], static_cast<S>(wide[i]));
        stays_inside = stays_inside && same(to.back(), static_cast<S>(-7.0));
      }
    }
  CHECK(loads);
  CHECK(stores);
  CHECK(stays_inside);
}

}  // namespace

TEMPLATE_TEST_CASE("loads and stores convert every lane as numbers do, and no more of them than asked", "", float,
                   bfloat16, float16) {
  support::for_each_arch([](auto arch) { check_conversions<TestType, float, decltype(arch)>(); });
}

TEST_CASE("loads and stores of double leave the numbers as they are") {
  support::for_each_arch([](auto arch) { check_conversions<double, double, decltype(arch)>(); });
}

TEMPLATE_TEST_CASE("codes of 8 and 4 bits are loaded as the numbers they are", "", float, double) {
  using T = TestType;
  std::vector<std::int8_t> codes;
  std::vector<std::uint8_t> bytes;
  for (int c = -128; c < 128; ++c) codes.push_back(static_cast<std::int8_t>(c));
  for (int b = 0; b < 256; ++b) bytes.push_back(static_cast<std::uint8_t>(b * 37));  // every byte, in no order
  support::for_each_arch([&](auto arch) {
    using A = decltype(arch);
    using namespace heed::detail;
    constexpr int lanes = pack<T, A>::lanes;
    CAPTURE(A::name());
    bool right8 = true, right_pairs = true, right_low = true, right_high = true;
    for (int at = 0; at + lanes <= 256; ++at) {
      T lane[lanes];
      load_as<T, A>(codes.data() + at).store(lane);
      for (int i = 0; i < lanes; ++i) right8 = right8 && lane[i] == static_cast<T>(at + i - 128);
      load_nibble_pairs<T, A>(bytes.data() + at).store(lane);
      const auto byte = [&](int i) { return static_cast<int>(bytes[static_cast<std::size_t>(at + i)]); };
      for (int i = 0; i < lanes; ++i)
        right_pairs = right_pairs && lane[i] == static_cast<T>(i % 2 == 0 ? byte(i / 2) % 16 : byte(i / 2) / 16);
      load_nibbles<T, A>(bytes.data() + at, 0).store(lane);
      for (int i = 0; i < lanes; ++i) right_low = right_low && lane[i] == static_cast<T>(byte(i) % 16);
      load_nibbles<T, A>(bytes.data() + at, 4).store(lane);
      for (int i = 0; i < lanes; ++i) right_high = right_high && lane[i] == static_cast<T>(byte(i) / 16);
    }
    CHECK(right8);
    CHECK(right_pairs);
    CHECK(right_low);
    CHECK(right_high);
  });
}

TEMPLATE_TEST_CASE("a square transposed in registers", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    constexpr int lanes = pack<T, A>::lanes;
    CAPTURE(A::name());
    pack<T, A> rows[lanes];
    T lane[lanes];
    for (int i = 0; i < lanes; ++i) {
      for (int j = 0; j < lanes; ++j) lane[j] = static_cast<T>(100 * i + j);
      rows[i] = pack<T, A>::load(lane);
    }
    heed::detail::transpose(rows);
    bool right = true;
    for (int i = 0; i < lanes; ++i) {
      rows[i].store(lane);
      for (int j = 0; j < lanes; ++j) right = right && lane[j] == static_cast<T>(100 * j + i);
    }
    CHECK(right);
  });
}
