#include <heed/core/tensor.hpp>
#include <heed/mod/score.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

using Catch::Approx;
using heed::index_t;
using support::message_of;

namespace {

constexpr heed::position at(int h, int q, int kv) { return {0, h, q, kv}; }

/// The rule as the authors publish it: a power of two by the formula, otherwise every other slope of twice as many
/// heads.
std::vector<double> published_slopes(int heads) {
  int n = 1;
  while (2 * n <= heads) n *= 2;
  std::vector<double> slopes;
  const double start = std::pow(2.0, -std::pow(2.0, -(std::log2(n) - 3)));
  for (int i = 0; i < n; ++i) slopes.push_back(start * std::pow(start, i));
  if (n == heads) return slopes;
  const std::vector<double> finer = published_slopes(2 * n);
  for (std::size_t i = 0; slopes.size() < static_cast<std::size_t>(heads); i += 2) slopes.push_back(finer[i]);
  return slopes;
}

/// A natural number of any size, to decide the floor of a logarithm exactly.
class natural {
 public:
  explicit natural(std::uint32_t value) : digits_{value} {}
  natural& operator*=(std::uint32_t factor) {
    std::uint64_t carry = 0;
    for (std::uint32_t& digit : digits_) {
      carry += std::uint64_t(digit) * factor;
      digit = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
    if (carry > 0) digits_.push_back(static_cast<std::uint32_t>(carry));
    return *this;
  }
  bool operator>=(const natural& other) const {
    if (digits_.size() != other.digits_.size()) return digits_.size() > other.digits_.size();
    for (std::size_t i = digits_.size(); i-- > 0;)
      if (digits_[i] != other.digits_[i]) return digits_[i] > other.digits_[i];
    return true;
  }

 private:
  std::vector<std::uint32_t> digits_;
};

natural product(int a, int times_a, int b, int times_b) {
  natural result(1);
  for (int i = 0; i < times_a; ++i) result *= static_cast<std::uint32_t>(a);
  for (int i = 0; i < times_b; ++i) result *= static_cast<std::uint32_t>(b);
  return result;
}

/// floor(log(n/e) / log(m/e) * s) >= t holds if and only if n^s e^t >= m^t e^s.
int exact_bucket(int distance, int buckets, int m, bool bidirectional) {
  const int side = bidirectional ? buckets / 2 : buckets;
  const int base = bidirectional && distance > 0 ? side : 0;
  const int n = bidirectional ? std::abs(distance) : std::max(-distance, 0);
  const int e = side / 2;
  if (n < e) return base + n;
  int t = 0;
  while (e + t < side - 1 && product(n, side - e, e, t + 1) >= product(m, t + 1, e, side - e)) ++t;
  return base + e + t;
}

}  // namespace

TEST_CASE("softcap, tanh_score, temperature, log_activation") {
  const std::vector<float> factors{0.5f, 2.f};
  for (const double s : {-30.0, -1.5, 0.0, 0.25, 8.0}) {
    CHECK(heed::softcap{5.0}(s, at(0, 3, 2)) == Approx(5 * std::tanh(s / 5)).epsilon(1e-14));
    CHECK(heed::tanh_score{}(s, at(0, 3, 2)) == Approx(std::tanh(s)).epsilon(1e-14));
    CHECK(heed::temperature{factors}(s, at(1, 3, 2)) == 2 * s);
    CHECK(heed::temperature{factors}(s, at(0, 3, 2)) == 0.5 * s);
    CHECK(heed::temperature{factors}(s, at(2, 3, 2)) == s);
    const heed::log_activation square{[](auto x) { return x * x; }, 1e-3};
    CHECK(square(s, at(0, 3, 2)) == Approx(std::log(s * s + 1e-3)).epsilon(1e-14));
  }
  STATIC_REQUIRE(std::is_same_v<decltype(heed::softcap{5.0}(1.f, at(0, 0, 0))), float>);
  STATIC_REQUIRE(std::is_same_v<decltype(heed::temperature{factors}(1.0, at(0, 0, 0))), double>);
  // Float scores are computed in float: a parameter of type double must not widen them.
  for (float s = -2; s < 2; s += 0.01f) CHECK(heed::softcap{0.3}(s, at(0, 0, 0)) == 0.3f * std::tanh(s / 0.3f));
}

TEST_CASE("alibi slopes") {
  for (const int heads : {1, 2, 3, 4, 7, 8, 12, 16, 20, 31, 32, 71, 112}) {
    const heed::tensor<double, 1> slopes = heed::alibi_slopes(heads);
    const std::vector<double> expected = published_slopes(heads);
    REQUIRE(slopes.extent(0) == heads);
    for (int h = 0; h < heads; ++h) {
      CAPTURE(heads, h);
      CHECK(slopes(h) == Approx(expected[static_cast<std::size_t>(h)]).epsilon(1e-13));
    }
  }
  CHECK(heed::alibi_slope(0, 8) == 0.5);
  CHECK(heed::alibi_slope(7, 8) == 1.0 / 256);
  CHECK(heed::alibi_slope(8, 12) == Approx(std::exp2(-0.5)));
  CHECK(heed::alibi_slope(11, 12) == Approx(std::exp2(-3.5)));
  CHECK(heed::alibi_slopes(0).size() == 0);
}

TEST_CASE("alibi, symmetric_alibi") {
  const std::array<double, 2> slopes{0.5, 0.125};
  const heed::tensor<double, 1> many = heed::alibi_slopes(8);
  CHECK(heed::alibi{slopes}(1.0, at(0, 9, 3)) == 1.0 - 0.5 * 6);
  CHECK(heed::alibi{slopes}(1.0, at(1, 3, 9)) == 1.0 + 0.125 * 6);
  CHECK(heed::symmetric_alibi{slopes}(1.0, at(1, 9, 3)) == 1.0 - 0.125 * 6);
  CHECK(heed::symmetric_alibi{slopes}(1.0, at(1, 3, 9)) == 1.0 - 0.125 * 6);
  CHECK(heed::alibi{many}(1.f, at(2, 9, 3)) == 1.f - 0.125f * 6);
  CHECK(heed::alibi{many.all()}(1.f, at(2, 9, 3)) == 1.f - 0.125f * 6);
  // A head without a slope.
  CHECK(heed::alibi{slopes}(1.0, at(2, 9, 3)) == 1.0);
  CHECK(heed::alibi{slopes}(1.0, at(-1, 9, 3)) == 1.0);
}

TEST_CASE("relative_bias") {
  heed::tensor<float, 2> table({2, 7});
  for (int h = 0; h < 2; ++h)
    for (int d = 0; d < 7; ++d) table(h, d) = static_cast<float>(10 * h + d);
  for (int h = 0; h < 2; ++h)
    for (int q = -4; q < 9; ++q)
      for (int kv = 0; kv < 9; ++kv) {
        const int clipped = std::clamp(kv - q, -3, 3) + 3;
        CHECK(heed::relative_bias{table}(0.5, at(h, q, kv)) == 0.5 + 10 * h + clipped);
        CHECK(heed::relative_bias{table.all().slice(0, 1, 2)}(0.5, at(h, q, kv)) == 10.5 + clipped);
      }
  const std::vector<double> row{1, 2, 3};
  CHECK(heed::relative_bias{row}(0.f, at(5, 2, 9)) == 3.f);
  CHECK(heed::relative_bias{table}(0.5, at(2, 0, 0)) == 0.5);
}

TEST_CASE("T5 buckets") {
  for (const bool bidirectional : {true, false})
    for (const auto& [buckets, reach] :
         {std::pair{32, 128}, {32, 64}, {16, 100}, {8, 5}, {64, 1000}, {4, 3}, {20, 160}, {38, 20}}) {
      const heed::t5_buckets bucket(buckets, reach, bidirectional);
      for (int d = -reach - 40; d <= reach + 40; ++d) {
        CAPTURE(bidirectional, buckets, reach, d);
        REQUIRE(bucket(d) == exact_bucket(d, buckets, reach, bidirectional));
      }
      for (const int far : {INT_MIN, INT_MIN + 1, INT_MAX})
        CHECK(bucket(far) == exact_bucket(far < 0 ? -2 * reach : 2 * reach, buckets, reach, bidirectional));
    }
  // First distances of the logarithmic buckets of the published configuration.
  const heed::t5_buckets published;
  const int firsts[] = {8, 12, 16, 23, 32, 46, 64, 91};
  for (int i = 0; i < 8; ++i) {
    CHECK(published(-firsts[i]) == 8 + i);
    CHECK(published(-firsts[i] + 1) == 7 + i);
    CHECK(published(firsts[i]) == 24 + i);
  }
}

TEST_CASE("T5 tables expand and fold") {
  const heed::t5_buckets bucket(8, 20);
  heed::tensor<double, 2> stored({8, 3}), folded({3, 8});  // as models store it: [buckets, H]
  for (int u = 0; u < 8; ++u)
    for (int h = 0; h < 3; ++h) stored(u, h) = 10 * h + u;
  const heed::view<const double, 2> table = stored.all().swap_axes(0, 1);
  const heed::tensor<double, 2> expanded = heed::t5_expand(table, bucket);
  REQUIRE(expanded.extent(1) == 41);
  const heed::relative_bias bias{expanded};
  for (int h = 0; h < 3; ++h)
    for (int q = 0; q < 60; q += 3)
      for (int kv = 0; kv < 60; ++kv) CHECK(bias(0.0, at(h, q, kv)) == 10 * h + exact_bucket(kv - q, 8, 20, true));

  heed::tensor<double, 2> ones = expanded;
  ones.fill(1);
  heed::t5_fold(heed::view<const double, 2>(ones.all()), bucket, folded.all());
  for (int h = 0; h < 3; ++h)
    for (int u = 0; u < 8; ++u) {
      int count = 0;
      for (int d = -20; d <= 20; ++d) count += exact_bucket(d, 8, 20, true) == u;
      CHECK(folded(h, u) == count);
    }
}

TEST_CASE("score mods refuse what they cannot mean") {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<float> even{1, 2};
  heed::tensor<float, 2> table({2, 7}), grad({2, 7});
  CHECK(message_of([] { heed::softcap(0); }) == "heed::softcap: cap: expected positive and finite, got 0");
  CHECK(message_of([&] { heed::softcap{infinity}; }) == "heed::softcap: cap: expected positive and finite, got inf");
  CHECK(message_of([&] { heed::softcap(std::nan("")); }) ==
        "heed::softcap: cap: expected positive and finite, got nan");
  CHECK(message_of([] { heed::log_activation([](auto s) { return s; }, -1); }) ==
        "heed::log_activation: c: expected positive and finite, got -1");
  CHECK(message_of([&] { heed::relative_bias{even}; }) ==
        "heed::relative_bias: table: expected 2 R + 1 distances, got 2");
  CHECK(message_of([] { heed::t5_buckets(3); }) == "heed::t5_buckets: buckets: expected at least 2 a side, got 3");
  CHECK(message_of([] { heed::t5_buckets(7); }) == "heed::t5_buckets: buckets: expected an even number, got 7");
  CHECK(message_of([] { heed::t5_buckets(32, 8); }) ==
        "heed::t5_buckets: max_distance: expected more than half the buckets of a side, got 8");
  CHECK(message_of([&] { heed::t5_expand(heed::view<const float, 2>(table.all()), heed::t5_buckets(8)); }) ==
        "heed::t5_expand: table.extent(1): expected 8 (the number of buckets), got 7");
  CHECK(message_of([&] { heed::t5_fold(heed::view<const float, 2>(table.all()), heed::t5_buckets(8), grad.all()); }) ==
        "heed::t5_fold: grad.extent(1): expected 8 (the number of buckets), got 7");
  CHECK(message_of([] { heed::alibi_slopes(-1); }) == "heed::alibi_slopes: heads: expected at least 0, got -1");
}
