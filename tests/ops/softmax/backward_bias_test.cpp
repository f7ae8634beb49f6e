#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/masks.hpp>
#include <heed/mod/score.hpp>

#include <array>
#include <cmath>
#include <limits>

using namespace softmax_test;
using support::shuffling_executor;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A bias of given extents and its gradient, by executors that take tasks in different orders.
template <class S, class... Mods>
void check_bias(const shape& s, const index_t (&extents)[4], softmax_backward_options<S> options,
                const reference::score_function& by_hand, const Mods&... mods) {
  backward_problem<S> p(s), other(s);
  auto bias = support::normal_tensor<S, 4>(extents, p.random);
  bias(0, 0, 0, 0) = S(-infinity);
  tensor<S, 4> dbias = tensor<S, 4>::full(extents, support::quiet_nan<S>), again = dbias;
  options.bias = bias;
  options.dbias = dbias;
  options.dlse = p.dlse;
  reference::softmax_arguments arguments = arguments_of<S>(options);
  arguments.bias_extents = std::array<index_t, 4>{extents[0], extents[1], extents[2], extents[3]};
  if (by_hand.value) reference::append_score(arguments, by_hand);
  CAPTURE(s.B, s.H, s.N, s.M, extents[0], extents[1], extents[2], extents[3], heed::dtype_name<S>);
  CHECK(gradient_error_on<heed::default_arch, S>(p, options, arguments, mods...) <= 1);

  shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
  options.executor = heed::executor(shuffled);
  options.dbias = again;
  options.dlse = p.dlse;
  solve<S>(other, options, mods...);
  CHECK(same_bits<S, 4>(dbias, again));
}

template <class S>
void check_broadcasts(const shape& s) {
  for (unsigned which = 0; which < 16; ++which) {
    const index_t extents[4] = {which & 1 ? s.B : 1, which & 2 ? s.H : 1, which & 4 ? s.N : 1, which & 8 ? s.M : 1};
    check_bias<S>(s, extents, {.window_right = which % 3 == 0 ? 0 : -1}, {});
  }
}

}  // namespace

TEMPLATE_TEST_CASE("the gradient by a bias, summed over the axes that are broadcast", "", float, double,
                   heed::bfloat16) {
  check_broadcasts<TestType>({2, 4, 2, 70, 150, 12, 8});
}

TEST_CASE("the gradient by a bias stands between softcap and score mods") {
  const shape s{2, 2, 1, 70, 150, 12, 8};
  const reference::score_function bent{[](double x, int, int, int, int) { return 2 * std::tanh(x); },
                                       [](double x, int, int, int, int) { return 2 - 2 * std::pow(std::tanh(x), 2); },
                                       {},
                                       0,
                                       2,
                                       2};
  const index_t all[2][4] = {{2, 2, 70, 150}, {1, 2, 1, 150}};
  for (const auto& extents : all)
    check_bias<float>(s, extents, {.softcap = 3, .window_left = 60}, bent, [](auto x, auto) { return 2 * tanh(x); });
}

TEST_CASE("pairs whose bias is -inf have no gradient, whatever a score mod makes of them") {
  backward_problem<float> p({1, 2, 1, 70, 150, 12, 8});
  tensor<float, 4> bias({1, 1, 1, 150}), dbias({1, 1, 1, 150});
  const tensor<float, 2> table({1, 301});
  tensor<double, 2> gradients({1, 301});
  for (index_t j = 0; j < 150; ++j) bias(0, 0, 0, j) = j % 3 == 1 ? float(-infinity) : 0.25f;
  solve<float>(p, {.bias = bias, .dbias = dbias}, heed::softcap{1.5}, heed::relative_bias{table, gradients});
  for (index_t j = 1; j < 150; j += 3) {
    CHECK(dbias(0, 0, 0, j) == 0);
    for (index_t d = 0; d < 12; ++d) CHECK(p.dk(0, 0, j, d) == 0);
    for (index_t e = 0; e < 8; ++e) CHECK(p.dv(0, 0, j, e) == 0);
  }
  // The table's gradients are those of all pairs together, of which a row has none on the whole.
  double sum = 0;
  for (const double x : gradients) sum += x;
  CHECK(std::fabs(sum) <= 1e-3);
}

TEST_CASE("the gradient by a bias without queries or keys is zero") {
  for (const shape& s : {shape{1, 2, 1, 0, 9, 8, 8}, shape{1, 2, 1, 9, 0, 8, 8}}) {
    backward_problem<float> p(s);
    const tensor<float, 4> bias({1, 2, 1, 1});
    tensor<float, 4> dbias = tensor<float, 4>::full({1, 2, 1, 1}, support::quiet_nan<float>);
    solve<float>(p, {.bias = bias, .dbias = dbias});
    CHECK(dbias(0, 0, 0, 0) == 0);
    CHECK(dbias(0, 1, 0, 0) == 0);
  }
}

TEST_CASE("NaN in pairs that a mask or a bias hides does not reach the gradient by the bias") {
  const shape s{1, 2, 1, 70, 150, 12, 8};
  backward_problem<float> clean(s), p(s);
  tensor<float, 4> bias({1, 1, 1, 150}), expected({1, 1, 1, 150}), got({1, 1, 1, 150});
  for (index_t j = 0; j < 150; ++j) {
    bias(0, 0, 0, j) = j % 4 == 3 ? float(-infinity) : 0.25f;
    if (j % 4 != 3 && j < 120) continue;
    p.k(0, 0, j, 1) = support::quiet_nan<float>;
    p.v(0, 0, j, 2) = support::quiet_nan<float>;
  }
  solve<float>(clean, {.bias = bias, .dbias = expected, .q_offset = 50}, heed::causal{});
  solve<float>(p, {.bias = bias, .dbias = got, .q_offset = 50}, heed::causal{});
  CHECK(all_finite(got));
  CHECK(same_bits<float, 4>(got, expected));
}
