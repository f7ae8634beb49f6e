#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"

#include <heed/mod/score.hpp>

#include <limits>

using namespace softmax_test;

namespace {

template <class S>
constexpr S excluded = S(-std::numeric_limits<float>::infinity());

constexpr shape whole{2, 4, 2, 75, 150, 16, 20};

}  // namespace

TEMPLATE_TEST_CASE("bias broadcasts along every set of axes", "", float, double, heed::bfloat16, heed::float16) {
  for (unsigned axes = 0; axes < 16; ++axes) {
    problem<TestType> p(whole);
    const auto extent = [axes](int axis, index_t full) { return (axes >> axis & 1u) != 0 ? full : 1; };
    const auto bias = support::normal_tensor<TestType, 4>(
        {extent(0, whole.B), extent(1, whole.H), extent(2, whole.N), extent(3, whole.M)}, p.random, 3);
    CAPTURE(axes, heed::dtype_name<TestType>);
    CHECK(error_of<TestType>(p, {.bias = bias}) <= 1);
    CHECK(error_of<TestType>(p, {.bias = bias, .window_left = 40, .window_right = 0}) <= 1);
  }
}

TEST_CASE("bias broadcasts from stride 0 as from extent 1") {
  problem<float> a(whole), b(whole);
  const auto bias = support::normal_tensor<float, 4>({1, 4, 1, 150}, a.random, 3);
  heed::softmax_forward(a.q, a.k, a.v, a.out, {.bias = bias, .lse = a.lse});
  heed::softmax_forward(b.q, b.k, b.v, b.out, {.bias = bias.all().broadcast(0, 2).broadcast(2, 75), .lse = b.lse});
  CHECK(same_result(a, b));
}

TEST_CASE("bias may have any outer strides") {
  problem<float> a(whole), b(whole);
  const auto bias = support::normal_tensor<float, 4>({2, 4, 75, 150}, a.random, 3);
  tensor<float, 4> stored({75, 4, 2, 157});
  for (index_t n = 0; n < 2; ++n)
    for (index_t h = 0; h < 4; ++h)
      for (index_t i = 0; i < 75; ++i)
        for (index_t j = 0; j < 150; ++j) stored(i, h, n, j) = bias(n, h, i, j);
  heed::softmax_forward(a.q, a.k, a.v, a.out, {.bias = bias, .lse = a.lse});
  heed::softmax_forward(b.q, b.k, b.v, b.out, {.bias = stored.all().swap_axes(0, 2).slice(3, 0, 150), .lse = b.lse});
  CHECK(same_result(a, b));
}

TEMPLATE_TEST_CASE("a bias of -inf excludes pairs, and whole rows", "", float, double, heed::bfloat16) {
  problem<TestType> p(whole);
  auto bias = support::normal_tensor<TestType, 4>({2, 4, 75, 150}, p.random);
  for (TestType& x : bias)
    if (p.random() % 3 == 0) x = excluded<TestType>;
  for (const index_t i : {0, 30, 74})
    for (index_t j = 0; j < 150; ++j) bias(1, 2, i, j) = excluded<TestType>;
  for (index_t j = 0; j < 149; ++j) bias(0, 0, 5, j) = excluded<TestType>;
  for (index_t i = 0; i < 75; ++i)
    for (index_t j = 0; j < 128; ++j) bias(0, 1, i, j) = excluded<TestType>;
  CHECK(error_of<TestType>(p, {.bias = bias}) <= 1);
  for (const index_t i : {0, 30, 74}) {
    CHECK(static_cast<double>(p.lse(1, 2, i)) == -std::numeric_limits<double>::infinity());
    for (index_t e = 0; e < 20; ++e) CHECK(static_cast<double>(p.out(1, 2, i, e)) == 0);
  }
  CHECK(error_of<TestType>(p, {.softcap = 2, .bias = bias, .window_right = 0}) <= 1);
  // Whatever a score mod makes of it.
  CHECK(error_of<TestType>(p, {.bias = bias}, 1, heed::softcap{1.5}) <= 1);
}

TEST_CASE("a bias of one key column that is -inf everywhere leaves nothing") {
  problem<float> p({1, 1, 1, 20, 30, 8, 8});
  const auto bias = tensor<float, 4>::full({1, 1, 1, 1}, excluded<float>);
  CHECK(error_of<float>(p, {.bias = bias}) <= 1);
  CHECK(std::all_of(p.out.begin(), p.out.end(), [](float x) { return x == 0; }));
}
