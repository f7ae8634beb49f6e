// Efficient attention against its definition, and what follows from the definition.
#include "ops/linear/efficient.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"

#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;
using support::copy_into;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Tails of blocks and vectors, one to many parts of keys and queries, more parts than keys fill.
std::vector<efficient_shape> shapes() {
  if (support::small_grid()) return {{2, 4, 2, 17, 70, 7, 5}, {1, 1, 1, 0, 9, 8, 8}, {1, 2, 1, 65, 1100, 16, 33}};
  return {{1, 1, 1, 1, 1, 1, 1},    {2, 4, 2, 17, 70, 7, 5},   {1, 2, 2, 0, 9, 8, 8},      {1, 3, 1, 63, 64, 16, 33},
          {3, 2, 2, 64, 65, 33, 3}, {1, 1, 1, 3, 2000, 64, 8}, {1, 2, 1, 700, 1100, 3, 9}, {2, 2, 1, 65, 128, 64, 64},
          {0, 2, 1, 5, 5, 8, 8},    {1, 0, 0, 5, 5, 8, 8},     {8, 6, 3, 20, 30, 16, 16},  {1, 1, 1, 10, 1, 130, 70}};
}

template <class S, class A = heed::default_arch>
void check_shape(const efficient_shape& s) {
  std::vector<std::int32_t> lengths;
  for (index_t b = 0; b < s.B; ++b) lengths.push_back(static_cast<std::int32_t>(b == 0 ? s.M * 3 / 5 : s.M));
  for (const efficient_mode mode : efficient_modes)
    for (const bool padded : {false, true}) {
      efficient_problem<S> p(s);
      efficient_options<S> o{.mode = mode};
      if (padded) o.kv_lengths = lengths;
      if (padded && s.B > 0 && lengths[0] == 0) continue;
      CAPTURE(heed::dtype_name<S>, A::name(), s.B, s.H, s.G, s.N, s.M, s.D, s.E, static_cast<int>(mode), padded);
      solve_on<A, S>(p, o);
      CHECK(error_of(p, o) <= 1);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("efficient attention and its gradients agree with the definition", "", float, double, heed::bfloat16,
                   heed::float16) {
  for (const efficient_shape& s : shapes()) check_shape<TestType>(s);
}

TEMPLATE_TEST_CASE("efficient attention agrees with its definition on every distinct instruction set", "", float,
                   double) {
  support::for_each_distinct_arch([](auto arch) {
    check_shape<TestType, decltype(arch)>({2, 4, 2, 70, 600, 20, 33});
    check_shape<TestType, decltype(arch)>({1, 1, 1, 5, 3, 1, 1});
  });
}

TEST_CASE("keys that rise and fall by hundreds, and all that are alike, keep their weights") {
  efficient_problem<float> p({1, 2, 1, 40, 900, 9, 7});
  for (index_t j = 0; j < 900; ++j)
    for (index_t d = 0; d < 9; ++d) {
      const float x = d == 0 ? 1 : d == 1 ? -3e38f : static_cast<float>(d % 2 == 0 ? j : 900 - j);
      p.k(0, 0, j, d) = d < 2 ? x : 0.7f * x + p.k(0, 0, j, d);
    }
  for (index_t i = 0; i < 40; ++i) p.q(0, 1, i, i % 9) = 300;
  solve(p);
  CHECK(error_of(p) <= 1);
}

TEST_CASE("constant values come out of efficient attention as they are in mode softmax") {
  efficient_problem<double> p({2, 4, 2, 30, 700, 8, 5});
  p.v.fill(2.5);
  solve(p);
  for (const double x : p.out) CHECK(x == Catch::Approx(2.5).epsilon(1e-12));
}

TEST_CASE("a constant added to a feature of all keys, or to all features of a query, changes nothing in mode softmax") {
  efficient_problem<double> p({1, 2, 1, 30, 700, 8, 5}), moved({1, 2, 1, 30, 700, 8, 5});
  for (index_t j = 0; j < 700; ++j)
    for (index_t d = 0; d < 8; ++d) moved.k(0, 0, j, d) += 3.0 * static_cast<double>(d) - 10;
  for (index_t i = 0; i < 30; ++i)
    for (index_t d = 0; d < 8; ++d) moved.q(0, 1, i, d) += static_cast<double>(i);
  solve(p);
  solve(moved);
  CHECK(error<double>(moved.out, p.out) <= 1);
  CHECK(error<double>(moved.dq, p.dq) <= 1);
  CHECK(error<double>(moved.dk, p.dk) <= 1);
}

TEST_CASE("the order of keys, with their values, does not matter") {
  for (const efficient_mode mode : efficient_modes) {
    efficient_problem<double> p({1, 2, 1, 30, 601, 8, 5}), permuted({1, 2, 1, 30, 601, 8, 5});
    for (index_t j = 0; j < 601; ++j) {
      copy_into<double, 1>(p.k.all()[0][0][(7 * j + 3) % 601], permuted.k.all()[0][0][j]);
      copy_into<double, 1>(p.v.all()[0][0][(7 * j + 3) % 601], permuted.v.all()[0][0][j]);
    }
    solve<double>(p, {.mode = mode});
    solve<double>(permuted, {.mode = mode});
    CHECK(error<double>(permuted.out, p.out) <= 1);
  }
}

TEST_CASE("mode scaling is the product of the score matrix and the values, over the number of keys") {
  efficient_problem<double> p({1, 1, 1, 20, 90, 8, 5});
  solve<double>(p, {.mode = efficient_mode::scaling});
  tensor<double, 4> expected({1, 1, 20, 5});
  for (index_t i = 0; i < 20; ++i)
    for (index_t j = 0; j < 90; ++j) {
      double score = 0;
      for (index_t d = 0; d < 8; ++d) score += p.q(0, 0, i, d) * p.k(0, 0, j, d);
      for (index_t e = 0; e < 5; ++e) expected(0, 0, i, e) += score * p.v(0, 0, j, e) / 90;
    }
  CHECK(error<double>(p.out, expected) <= 1);
}

TEST_CASE("shared kv heads equal repeated ones for efficient attention, bit for bit, and their gradients are sums") {
  for (const efficient_mode mode : efficient_modes) {
    efficient_problem<double> shared({2, 6, 2, 50, 60, 8, 5}), repeated({2, 6, 6, 50, 60, 8, 5});
    repeated.q = shared.q;
    repeated.dout = shared.dout;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 6; ++h) {
        copy_into<double, 2>(shared.k.all()[b][h / 3], repeated.k.all()[b][h]);
        copy_into<double, 2>(shared.v.all()[b][h / 3], repeated.v.all()[b][h]);
      }
    solve<double>(shared, {.mode = mode});
    solve<double>(repeated, {.mode = mode});
    CHECK(same_bits<double, 4>(shared.out, repeated.out));
    CHECK(same_bits<double, 4>(shared.dq, repeated.dq));
    tensor<double, 4> dk({2, 2, 60, 8}), dv({2, 2, 60, 5});
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 6; ++h)
        for (index_t j = 0; j < 60; ++j) {
          for (index_t d = 0; d < 8; ++d) dk(b, h / 3, j, d) += repeated.dk(b, h, j, d);
          for (index_t e = 0; e < 5; ++e) dv(b, h / 3, j, e) += repeated.dv(b, h, j, e);
        }
    CHECK(error<double>(shared.dk, dk) <= 1);
    CHECK(error<double>(shared.dv, dv) <= 1);
  }
}

TEST_CASE("without keys the result is zero; a feature that no key has adds nothing") {
  for (const index_t M : {0, 5}) {
    efficient_problem<float> p({1, 2, 1, 3, M, 8, 5});
    p.k.fill(-infinity);
    solve(p);
    for (const float x : p.out) CHECK(x == 0);
    for (const float x : p.key_max) CHECK(x == -infinity);
    for (const float x : p.key_sum) CHECK(x == 0);
    for (const tensor<float, 4>* t : {&p.dq, &p.dk, &p.dv})
      for (const float x : *t) CHECK(x == 0);
  }
  efficient_problem<float> p({1, 2, 1, 3, 70, 8, 5});
  for (index_t j = 0; j < 70; ++j) p.k(0, 0, j, 2) = -infinity;
  solve(p);
  CHECK(error_of(p) <= 1);
}
