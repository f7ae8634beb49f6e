#include "support/catch.hpp"

#include "reference/rotary.hpp"

#include <heed/rotary.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

using heed::bfloat16;
using heed::float16;
using heed::index_t;
using heed::rotary_layout;
using heed::rotary_options;
using heed::rotary_positions;
using heed::tensor;
using heed::view;

namespace {

constexpr double quiet_nan = std::numeric_limits<double>::quiet_NaN();
constexpr auto layouts = {rotary_layout::half_split, rotary_layout::interleaved};

template <class S>
constexpr double roundoff = std::is_same_v<S, double>     ? 0x1p-53
                            : std::is_same_v<S, float>    ? 0x1p-24
                            : std::is_same_v<S, bfloat16> ? 0x1p-8
                                                          : 0x1p-11;

template <class S>
tensor<S, 4> random_tensor(const index_t (&extents)[4], unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  tensor<S, 4> t(extents);
  for (S& x : t) x = S(normal(random));
  return t;
}

template <class S>
tensor<S, 4> poisoned(const view<const S, 4>& like) {
  return tensor<S, 4>::full({like.extent(0), like.extent(1), like.extent(2), like.extent(3)}, S(quiet_nan));
}

template <class S>
bool same_bits(const view<const S, 4>& a, const view<const S, 4>& b) {
  bool same = true;
  for (index_t i = 0; i < a.extent(0); ++i)
    for (index_t h = 0; h < a.extent(1); ++h)
      for (index_t n = 0; n < a.extent(2); ++n)
        for (index_t d = 0; d < a.extent(3); ++d)
          same = same && std::memcmp(&a(i, h, n, d), &b(i, h, n, d), sizeof(S)) == 0;
  return same;
}

/// Largest error in units of what the page promises; `largest_angle` in radians.
template <class S>
double error(const view<const S, 4>& x, const view<const S, 4>& out, const tensor<double, 4>& expected,
             double largest_angle = 0) {
  double worst = 0;
  const double u = roundoff<heed::accumulator_t<S>>;
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t i = 0; i < x.extent(2); ++i) {
        double largest = 1e-30;
        for (index_t d = 0; d < x.extent(3); ++d) largest = std::max(largest, std::fabs(double(x(b, h, i, d))));
        for (index_t d = 0; d < x.extent(3); ++d) {
          const double allowed = (3 * u + 2 * (largest_angle * 0x1p-51 + 0x1p-52)) * largest +
                                 roundoff<S> * std::fabs(expected(b, h, i, d)) + 0x1p-25 * (sizeof(S) == 2);
          const double off = std::fabs(double(out(b, h, i, d)) - expected(b, h, i, d)) / allowed;
          worst = off <= worst ? worst : off;
          if (std::isnan(off)) return quiet_nan;
        }
      }
  return worst;
}

rotary_options serial(rotary_options options = {}) {
  options.executor = heed::serial();
  return options;
}

reference::rotary_arguments arguments_of(const rotary_options& options) {
  return {options.base, options.features.or_default(-1), options.layout == rotary_layout::interleaved, false};
}

/// Runs every task under one worker number of two.
struct one_worker {
  index_t number;
  index_t concurrency() const { return 2; }
  template <class F>
  void for_each_task(index_t n, F f) {
    for (index_t i = 0; i < n; ++i) f(i, number);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("rotary_forward agrees with its definition", "", float, double, bfloat16, float16) {
  std::mt19937 random(1);
  const index_t sizes[] = {2, 4, 6, 10, 16, 30, 32, 34, 62, 64, 66, 128, 256};
  for (const index_t D : sizes)
    for (const index_t R : {D, std::max<index_t>(2, D / 4 * 2)})
      for (const rotary_layout layout : layouts)
        for (const index_t N : {1, 3, 16, 37}) {
          const auto x = random_tensor<TestType>({2, 3, N, D}, unsigned(D + N));
          auto out = poisoned<TestType>(x);
          std::vector<int> positions(std::size_t(N), 0);
          for (int& p : positions) p = int(random() % 8000) - 4000;
          const rotary_options options{.base = 10000, .features = R, .layout = layout};
          heed::rotary_forward(x, positions, out, options);
          const auto expected = reference::rotary<TestType>(
              x, [&](index_t, index_t i) { return double(positions[std::size_t(i)]); }, arguments_of(options));
          CAPTURE(D, R, N, int(layout));
          CHECK(error<TestType>(x, out, expected, 4000) <= 1);
        }
}

TEST_CASE("rotary_forward defaults: all features, halves, base 10000") {
  const auto x = random_tensor<double>({1, 1, 4, 6}, 2);
  auto out = poisoned<double>(x);
  heed::rotary_forward(x, rotary_positions::counting_from(0), out);
  CHECK(error<double>(x, out, reference::rotary<double>(x, [](index_t, index_t i) { return double(i); })) <= 1);

  // One pair, one radian per position.
  const auto unit = tensor<double, 4>::full({1, 1, 1, 2}, 1.0);
  tensor<double, 4> turned({1, 1, 1, 2});
  heed::rotary_forward(unit, rotary_positions::counting_from(1), turned);
  CHECK(turned(0, 0, 0, 0) == Catch::Approx(std::cos(1.0) - std::sin(1.0)).epsilon(1e-15));
  CHECK(turned(0, 0, 0, 1) == Catch::Approx(std::cos(1.0) + std::sin(1.0)).epsilon(1e-15));
}

TEST_CASE("positions come in every form") {
  const index_t B = 2, N = 5;
  const auto x = random_tensor<double>({B, 2, N, 8}, 3);
  const auto run = [&](const rotary_positions& positions) {
    auto out = poisoned<double>(x);
    heed::rotary_forward(x, positions, out);
    return out;
  };
  const auto agrees = [&](const tensor<double, 4>& out, auto position) {
    return error<double>(x, out, reference::rotary<double>(x, position), 1000) <= 1;
  };
  const std::vector<std::int32_t> narrow{7, -3, 900, 0, 7};
  const std::vector<std::int64_t> wide(narrow.begin(), narrow.end());
  const std::array<double, 5> real{0.5, -0.25, 3, 1e3, 0};
  const auto listed = [&](index_t, index_t i) { return double(narrow[std::size_t(i)]); };
  CHECK(agrees(run(narrow), listed));
  CHECK(agrees(run(wide), listed));
  CHECK(agrees(run(view<const std::int32_t, 1>(narrow.data(), {N})), listed));
  CHECK(agrees(run(real), [&](index_t, index_t i) { return real[std::size_t(i)]; }));
  const int plain[] = {7, -3, 900, 0, 7};
  CHECK(agrees(run(plain), listed));
  CHECK(agrees(run(rotary_positions::counting_from(-2)), [](index_t, index_t i) { return double(i - 2); }));
  CHECK(agrees(run(rotary_positions::everywhere(42)), [](index_t, index_t) { return 42.0; }));

  tensor<std::int64_t, 2> each({B, N});
  tensor<double, 2> each_real({N, B});
  for (index_t b = 0; b < B; ++b)
    for (index_t i = 0; i < N; ++i) {
      each(b, i) = 100 * b - 7 * i;
      each_real(i, b) = double(each(b, i)) + 0.5;
    }
  CHECK(agrees(run(each), [](index_t b, index_t i) { return double(100 * b - 7 * i); }));
  CHECK(agrees(run(each.all()), [](index_t b, index_t i) { return double(100 * b - 7 * i); }));
  // Stored token by token: any strides.
  CHECK(
      agrees(run(each_real.all().swap_axes(0, 1)), [](index_t b, index_t i) { return double(100 * b - 7 * i) + 0.5; }));
  // Backwards and broadcast.
  const view<const std::int32_t, 1> backwards(narrow.data() + 4, {N}, {-1}), one(narrow.data() + 2, {N}, {0});
  CHECK(agrees(run(backwards), [&](index_t, index_t i) { return double(narrow[std::size_t(4 - i)]); }));
  CHECK(agrees(run(one), [](index_t, index_t) { return 900.0; }));
}

TEST_CASE("base and position_scale set the angles") {
  const auto x = random_tensor<double>({1, 2, 6, 16}, 4);
  auto out = poisoned<double>(x), same = out;
  heed::rotary_forward(x, rotary_positions::counting_from(8), out, {.base = 500000, .position_scale = 0.25});
  const auto expected =
      reference::rotary<double>(x, [](index_t, index_t i) { return 0.25 * double(i + 8); }, {.base = 500000});
  CHECK(error<double>(x, out, expected, 4) <= 1);
  std::vector<double> scaled;
  for (int i = 0; i < 6; ++i) scaled.push_back(0.25 * (i + 8));
  heed::rotary_forward(x, scaled, same, {.base = 500000});
  CHECK(same_bits<double>(out, same));
}

TEMPLATE_TEST_CASE("far positions keep their angles", "", float, double) {
  const auto x = random_tensor<TestType>({1, 1, 4, 64}, 5);
  for (const double far : {1e6, 1e9, 3e9, 1e12})
    for (const rotary_layout layout : layouts) {
      std::vector<std::int64_t> positions;
      for (const int step : {0, 1, 2, 977}) positions.push_back(std::int64_t(far) + step);
      for (const int sign : {1, -1}) {
        for (auto& p : positions) p = sign * std::abs(p);
        auto out = poisoned<TestType>(x);
        heed::rotary_forward(x, positions, out, {.layout = layout});
        // In extended precision: base^(-2t/R) and the angle carry no error of double.
        double worst = 0;
        for (index_t i = 0; i < 4; ++i)
          for (index_t t = 0; t < 32; ++t) {
            const bool interleaved = layout == rotary_layout::interleaved;
            const index_t first = interleaved ? 2 * t : t, second = interleaved ? 2 * t + 1 : t + 32;
            const long double theta = std::pow(10000.0L, -static_cast<long double>(t) / 32);
            const long double phi = theta * positions[std::size_t(i)];
            const long double a = x(0, 0, i, first), b = x(0, 0, i, second);
            const double size = std::max(std::fabs(double(a)), std::fabs(double(b)));
            const double allowed = size * (2 * (std::fabs(double(phi)) * 0x1p-51 + 0x1p-52) + 4 * roundoff<TestType>);
            const auto off = [&](long double y, long double should) { return std::fabs(double(y - should)) / allowed; };
            worst = std::max({worst, off(out(0, 0, i, first), a * std::cos(phi) - b * std::sin(phi)),
                              off(out(0, 0, i, second), b * std::cos(phi) + a * std::sin(phi))});
          }
        CAPTURE(far, int(layout), sign);
        CHECK(worst <= 1);
      }
    }
}

TEST_CASE("turning keeps the norm of every pair") {
  for (const rotary_layout layout : layouts) {
    const auto x = random_tensor<double>({1, 2, 9, 12}, 6);
    auto y = poisoned<double>(x);
    heed::rotary_forward(x, rotary_positions::counting_from(1000), y, {.layout = layout});
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 9; ++i)
        for (index_t t = 0; t < 6; ++t) {
          const bool interleaved = layout == rotary_layout::interleaved;
          const index_t a = interleaved ? 2 * t : t, b = interleaved ? 2 * t + 1 : t + 6;
          CHECK(std::hypot(y(0, h, i, a), y(0, h, i, b)) ==
                Catch::Approx(std::hypot(x(0, h, i, a), x(0, h, i, b))).epsilon(1e-14));
        }
  }
}

TEST_CASE("scores of turned queries and keys depend on their distance alone") {
  const auto q = random_tensor<double>({1, 1, 1, 16}, 7), k = random_tensor<double>({1, 1, 1, 16}, 8);
  const auto score = [&](double at_q, double at_k, rotary_layout layout) {
    auto turned_q = q, turned_k = k;
    heed::rotary_forward(q, rotary_positions::everywhere(at_q), turned_q, {.layout = layout});
    heed::rotary_forward(k, rotary_positions::everywhere(at_k), turned_k, {.layout = layout});
    double sum = 0;
    for (index_t d = 0; d < 16; ++d) sum += turned_q(0, 0, 0, d) * turned_k(0, 0, 0, d);
    return sum;
  };
  for (const rotary_layout layout : layouts) {
    CHECK(score(17, 5, layout) == Catch::Approx(score(112, 100, layout)).margin(1e-12));
    CHECK(score(3, 9, layout) == Catch::Approx(score(-6, 0, layout)).margin(1e-12));
    CHECK(std::fabs(score(17, 5, layout) - score(17, 6, layout)) > 1e-3);
  }
}

TEST_CASE("rotary_backward undoes rotary_forward and is its transpose") {
  for (const rotary_layout layout : layouts) {
    const rotary_options options{.features = 10, .layout = layout};
    const auto x = random_tensor<double>({2, 2, 5, 14}, 9), dout = random_tensor<double>({2, 2, 5, 14}, 10);
    auto y = poisoned<double>(x), back = y, dx = y, negated = y;
    const rotary_positions positions = rotary_positions::counting_from(-2);
    heed::rotary_forward(x, positions, y, options);
    heed::rotary_backward(y, positions, back, options);
    heed::rotary_backward(dout, positions, dx, options);
    double worst = 0, forward = 0, backward = 0;
    for (index_t i = 0; i < x.size(); ++i) {
      worst = std::max(worst, std::fabs(back.data()[i] - x.data()[i]));
      forward += y.data()[i] * dout.data()[i];
      backward += x.data()[i] * dx.data()[i];
    }
    CHECK(worst < 1e-14);
    CHECK(forward == Catch::Approx(backward).epsilon(1e-13));

    const int opposite[] = {2, 1, 0, -1, -2};
    heed::rotary_forward(dout, opposite, negated, options);
    CHECK(same_bits<double>(negated, dx));
    const auto expected = reference::rotary<double>(
        dout, [](index_t, index_t i) { return double(i - 2); },
        {.base = 10000, .features = 10, .interleaved = layout == rotary_layout::interleaved, .inverse = true});
    CHECK(error<double>(dout, dx, expected, 2) <= 1);
  }
}

TEST_CASE("turning by p and then by d is turning by p + d") {
  for (const rotary_layout layout : layouts) {
    const auto x = random_tensor<double>({1, 2, 7, 20}, 11);
    auto once = poisoned<double>(x), twice = once;
    heed::rotary_forward(x, rotary_positions::counting_from(130), once, {.layout = layout});
    heed::rotary_forward(x, rotary_positions::counting_from(30), twice, {.layout = layout});
    heed::rotary_forward(twice, rotary_positions::everywhere(100), twice, {.layout = layout});
    double worst = 0;
    for (index_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::fabs(once.data()[i] - twice.data()[i]));
    CHECK(worst < 1e-12);
  }
}

TEMPLATE_TEST_CASE("the layouts differ by a permutation of features", "", float, double, bfloat16) {
  for (const index_t R : {8, 24, 64}) {
    const index_t D = R + 3, half = R / 2;
    const auto x = random_tensor<TestType>({1, 3, 6, D}, 12);
    auto permuted = x, halves = poisoned<TestType>(x), pairs = halves;
    const auto permute = [&](const auto& from, auto& to) {
      for (index_t h = 0; h < 3; ++h)
        for (index_t i = 0; i < 6; ++i)
          for (index_t t = 0; t < half; ++t) {
            to(0, h, i, t) = from(0, h, i, 2 * t);
            to(0, h, i, t + half) = from(0, h, i, 2 * t + 1);
          }
    };
    permute(x, permuted);
    heed::rotary_forward(permuted, rotary_positions::counting_from(50), halves, {.features = R});
    heed::rotary_forward(x, rotary_positions::counting_from(50), pairs,
                         {.features = R, .layout = rotary_layout::interleaved});
    auto permuted_pairs = pairs;
    permute(pairs, permuted_pairs);
    CHECK(same_bits<TestType>(permuted_pairs, halves));
  }
}

TEMPLATE_TEST_CASE("features that do not turn are copied bit by bit", "", float, double, bfloat16, float16) {
  for (const rotary_layout layout : layouts) {
    auto x = random_tensor<TestType>({2, 2, 3, 20}, 13);
    // A NaN with a payload, an infinity and a negative zero survive a copy and nothing else.
    std::memset(&x(1, 1, 2, 19), 0xff, sizeof(TestType));
    x(0, 0, 0, 12) = TestType(std::numeric_limits<float>::infinity());
    x(0, 1, 0, 13) = TestType(-0.0f);
    auto out = poisoned<TestType>(x), in_place = x;
    heed::rotary_forward(x, rotary_positions::counting_from(5), out, {.features = 12, .layout = layout});
    heed::rotary_forward(in_place, rotary_positions::counting_from(5), in_place, {.features = 12, .layout = layout});
    CHECK(same_bits<TestType>(x.all().slice(3, 12, 20), out.all().slice(3, 12, 20)));
    CHECK(same_bits<TestType>(in_place, out));
    CHECK_FALSE(same_bits<TestType>(x.all().slice(3, 0, 12), out.all().slice(3, 0, 12)));
  }
}

TEMPLATE_TEST_CASE("strides change nothing and nothing outside the views is written", "", float, double, bfloat16,
                   float16) {
  for (const rotary_layout layout : layouts)
    for (const index_t D : {6, 34}) {
      const index_t B = 2, H = 3, N = 19, R = D - 2, record = H * D + 5, entry = N * record + 7;
      const auto dense = random_tensor<TestType>({B, H, N, D}, 14);
      auto expected = poisoned<TestType>(dense);
      const rotary_options options{.features = R, .layout = layout};
      heed::rotary_forward(dense, rotary_positions::counting_from(3), expected, options);

      // [B, N, H, D] in records with a margin, tokens in reverse order.
      std::vector<TestType> from(std::size_t(B * entry), TestType(quiet_nan)), to = from;
      const view<TestType, 4> x(from.data() + (N - 1) * record, {B, H, N, D}, {entry, D, -record, 1});
      const view<TestType, 4> out(to.data() + 2, {B, H, N, D}, {entry, D, record, 1});
      for (index_t b = 0; b < B; ++b)
        for (index_t h = 0; h < H; ++h)
          for (index_t i = 0; i < N; ++i)
            for (index_t d = 0; d < D; ++d) x(b, h, i, d) = dense(b, h, i, d);
      heed::rotary_forward(x, rotary_positions::counting_from(3), out, options);
      CHECK(same_bits<TestType>(out, expected));
      index_t written = 0;
      for (const TestType value : to) written += !std::isnan(double(value));
      CHECK(written == B * H * N * D);

      heed::rotary_forward(x, rotary_positions::counting_from(3), x, options);
      CHECK(same_bits<TestType>(x, expected));
    }
}

TEST_CASE("a broadcast input is turned once for each place it goes to") {
  const auto x = random_tensor<float>({1, 1, 1, 8}, 15);
  tensor<float, 4> out({2, 3, 4, 8});
  const auto wide = view<const float, 4>(x).broadcast(0, 2).broadcast(1, 3).broadcast(2, 4);
  heed::rotary_forward(wide, rotary_positions::counting_from(0), out);
  const auto expected = reference::rotary<float>(wide, [](index_t, index_t i) { return double(i); });
  CHECK(error<float>(wide, out, expected, 4) <= 1);
}

TEMPLATE_TEST_CASE("bit-equal for any number of threads and any scratch", "", float, double, bfloat16) {
  struct shape {
    index_t B, H, N, D;
  };
  for (const shape& s : {shape{1, 2, 300, 32}, shape{3, 5, 40, 10}, shape{8, 40, 1, 256}, shape{2, 1, 17, 64}})
    for (const bool per_entry : {false, true})
      for (const rotary_layout layout : layouts) {
        tensor<int, 2> list({per_entry ? s.B : 1, s.N});
        for (index_t i = 0; i < list.size(); ++i) list.data()[i] = int(i * 37 % 1001);
        const rotary_positions positions =
            per_entry ? rotary_positions(list) : rotary_positions(view<int, 1>(list.data(), {s.N}));
        const auto x = random_tensor<TestType>({s.B, s.H, s.N, s.D}, 16);
        auto expected = poisoned<TestType>(x), out = expected;
        heed::rotary_forward(x, positions, expected, serial({.layout = layout}));
        const auto reference_out =
            reference::rotary<TestType>(x, [&](index_t b, index_t i) { return double(list(per_entry ? b : 0, i)); },
                                        {.interleaved = layout == rotary_layout::interleaved});
        CHECK(error<TestType>(x, expected, reference_out, 1000) <= 1);

        out = x;
        heed::rotary_forward(out, positions, out, serial({.layout = layout}));
        CHECK(same_bits<TestType>(out, expected));

        rotary_options options = serial({.layout = layout});
        std::vector<std::byte> scratch(std::size_t(heed::rotary_scratch_bytes<TestType>(s.D, options)) + 1,
                                       std::byte{0xff});
        options.scratch = {scratch.data() + 1, index_t(scratch.size()) - 1};
        heed::rotary_forward(x, positions, out, options);
        CHECK(same_bits<TestType>(out, expected));
#if defined(_OPENMP)
        for (const int threads : {1, 2, 3, 7}) {
          out = poisoned<TestType>(x);
          heed::rotary_forward(x, positions, out, {.layout = layout, .executor = heed::openmp(threads)});
          CHECK(same_bits<TestType>(out, expected));
        }
#endif
      }
}

TEST_CASE("each worker has scratch of its own") {
  const auto x = random_tensor<float>({1, 2, 20, 64}, 21);
  auto out = poisoned<float>(x);
  std::vector<std::byte> scratch[2];
  for (const index_t number : {0, 1}) {
    one_worker worker{number};
    rotary_options options{.executor = heed::executor(worker)};
    scratch[number].resize(std::size_t(heed::rotary_scratch_bytes<float>(64, options)) + 64, std::byte{0xab});
    const auto shift = std::size_t(-reinterpret_cast<std::intptr_t>(scratch[number].data()) & 63);
    options.scratch = {scratch[number].data() + shift, index_t(scratch[number].size() - 64)};
    heed::rotary_forward(x, rotary_positions::counting_from(1), out, options);
    scratch[number].erase(scratch[number].begin(), scratch[number].begin() + std::ptrdiff_t(shift));
  }
  // Both write the frequencies, 32 doubles, and nothing else of each other's.
  const std::size_t common = 32 * sizeof(double), bytes = std::min(scratch[0].size(), scratch[1].size());
  int written[2] = {}, by_both = 0;
  for (std::size_t i = common; i < bytes; ++i) {
    const bool first = scratch[0][i] != std::byte{0xab}, second = scratch[1][i] != std::byte{0xab};
    written[0] += first;
    written[1] += second;
    by_both += first && second;
  }
  CHECK(written[0] > 1000);
  CHECK(written[1] > 1000);
  CHECK(by_both == 0);
}

TEST_CASE("empty tensors are legal") {
  tensor<float, 4> none({0, 2, 3, 4}), no_heads({1, 0, 3, 4}), no_tokens({1, 2, 0, 4});
  const std::vector<int> three{1, 2, 3}, zero;
  CHECK_NOTHROW(heed::rotary_forward(none, three, none));
  CHECK_NOTHROW(heed::rotary_forward(no_heads, three, no_heads));
  CHECK_NOTHROW(heed::rotary_forward(no_tokens, zero, no_tokens));
  CHECK_NOTHROW(heed::rotary_backward(no_tokens, zero, no_tokens));
}

TEST_CASE("a NaN in a position or a feature stays where it is") {
  auto x = random_tensor<float>({1, 1, 3, 8}, 17);
  x(0, 0, 2, 1) = float(quiet_nan);
  auto out = x;
  heed::rotary_forward(x, {{1.0, quiet_nan, 3.0}}, out);
  for (index_t d = 0; d < 8; ++d) {
    CHECK_FALSE(std::isnan(out(0, 0, 0, d)));
    CHECK(std::isnan(out(0, 0, 1, d)));
    CHECK(std::isnan(out(0, 0, 2, d)) == (d == 1 || d == 5));
  }
}

TEST_CASE("bad input is refused before anything is written") {
  const auto x = random_tensor<float>({2, 3, 4, 8}, 18);
  auto out = poisoned<float>(x);
  const std::vector<int> positions{0, 1, 2, 3};
  const auto refused = [&](const std::string& message, const view<const float, 4>& from, const rotary_positions& where,
                           const view<float, 4>& to, const rotary_options& options = {}) {
    CHECK_THROWS_AS(heed::rotary_forward(from, where, to, options), heed::invalid_argument);
    CHECK_THROWS_WITH(heed::rotary_forward(from, where, to, options), "heed::rotary_forward: " + message);
  };
  const view<const float, 4> in = x;
  const view<float, 4> to = out;
  refused("out.extent(2): expected 4 (as the input), got 3", in, positions, to.slice(2, 0, 3));
  refused("options.features: expected an even number from 2 to D = 8, got 3", in, positions, to, {.features = 3});
  refused("options.features: expected an even number from 2 to D = 8, got 10", in, positions, to, {.features = 10});
  refused("options.features: expected an even number from 2 to D = 8, got 0", in, positions, to, {.features = 0});
  refused("options.features: expected an even number from 2 to D = 8, got -2", in, positions, to, {.features = -2});
  refused("options.features: expected an even number from 2 to D = 7, got 7", in.slice(3, 0, 7), positions,
          to.slice(3, 0, 7));
  refused("options.base: expected a finite number above 0, got 0", in, positions, to, {.base = 0});
  refused("options.base: expected a finite number above 0, got -2", in, positions, to, {.base = -2});
  refused("options.base: expected a finite number above 0, got nan", in, positions, to, {.base = quiet_nan});
  refused("options.position_scale: expected a finite number, got inf", in, positions, to,
          {.position_scale = std::numeric_limits<double>::infinity()});
  refused("options.layout: expected half_split or interleaved, got 2", in, positions, to,
          {.layout = static_cast<rotary_layout>(2)});
  refused("x: expected at least one feature, got 0", in.slice(3, 0, 0), positions, to.slice(3, 0, 0));
  refused("x.extent(1): expected at least 0, got -1", in.slice(1, 1, 0), positions, to.slice(1, 1, 0));
  refused("x: expected data, got a null pointer", view<const float, 4>(nullptr, {2, 3, 4, 8}), positions, to);
  refused("x: expected a last axis of stride 1, got 8", view<const float, 4>(x.data(), {2, 3, 4, 8}, {96, 32, 1, 8}),
          positions, to);
  refused("out: expected no broadcast axis in an output, got stride 0", in, positions,
          view<float, 4>(out.data(), {2, 3, 4, 8}, {0, 32, 8, 1}));
  refused("positions: expected 4 positions (N), got 3", in, std::vector<int>{0, 1, 2}, to);
  refused("positions: expected data, got a null pointer", in, view<const int, 1>(nullptr, {4}), to);
  refused("positions.extent(0): expected 2 (B), got 3", in, tensor<int, 2>({3, 4}), to);
  refused("positions: expected 4 positions (N), got 5", in, tensor<int, 2>({2, 5}), to);
  std::byte scratch[16];
  const rotary_options small = serial({.scratch = {scratch, 16}});
  refused("options.scratch: expected at least " + std::to_string(heed::rotary_scratch_bytes<float>(8, small)) +
              " bytes, got 16",
          in, positions, to, small);

  int untouched = 0;
  for (const float value : out) untouched += std::isnan(value);
  CHECK(untouched == out.size());

  auto both = x;
  const view<float, 4> all = both;
  refused("out: expected no overlap with x, got overlapping memory", all.slice(2, 0, 3),
          rotary_positions::counting_from(0), all.slice(2, 1, 4));
  refused("out: expected no overlap with x, got overlapping memory", all.slice(0, 0, 1).broadcast(0, 2), positions,
          all);
  refused("out: expected no overlap with positions, got overlapping memory", in,
          view<const int, 1>(reinterpret_cast<const int*>(out.data()) + 100, {4}), to);
  CHECK(same_bits<float>(both, x));
  CHECK_THROWS_WITH(heed::rotary_backward(in, positions, to.slice(1, 0, 2)),
                    "heed::rotary_backward: dx.extent(1): expected 3 (as the input), got 2");
  CHECK_THROWS_WITH(heed::rotary_backward(in.slice(3, 0, 0), positions, to.slice(3, 0, 0)),
                    "heed::rotary_backward: dout: expected at least one feature, got 0");
}

TEST_CASE("halves of one buffer may be turned into each other") {
  auto both = random_tensor<float>({2, 2, 4, 16}, 19);
  const view<float, 4> all = both;
  const auto expected = reference::rotary<float>(all.slice(3, 0, 8), [](index_t, index_t i) { return double(i); });
  heed::rotary_forward(all.slice(3, 0, 8), rotary_positions::counting_from(0), all.slice(3, 8, 16));
  CHECK(error<float>(all.slice(3, 0, 8), all.slice(3, 8, 16), expected, 4) <= 1);
}

TEST_CASE("sine_cosine keeps its accuracy over all magnitudes") {
  using real = heed::pack<double>;
  std::mt19937_64 random(20);
  double worst = 0;
  for (int exponent = -60; exponent <= 60; ++exponent)
    for (int trial = 0; trial < 2000; ++trial) {
      double angle[real::lanes], s[real::lanes], c[real::lanes];
      for (double& x : angle) {
        x = std::ldexp(std::uniform_real_distribution<double>(-1, 1)(random), exponent);
        // Multiples of pi/4, where the quadrants meet.
        if (trial % 4 == 0) x = std::nearbyint(x) * 0x1.921fb54442d18p-1;
      }
      real sine, cosine;
      heed::detail::sine_cosine(real::load(angle), sine, cosine);
      sine.store(s);
      cosine.store(c);
      for (int i = 0; i < real::lanes; ++i)
        worst = std::max({worst, std::fabs(double(s[i] - std::sin(static_cast<long double>(angle[i])))),
                          std::fabs(double(c[i] - std::cos(static_cast<long double>(angle[i]))))});
    }
  CAPTURE(worst / 0x1p-52);
  CHECK(worst < 0x1p-52);
}
