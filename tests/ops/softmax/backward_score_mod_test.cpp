#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/masks.hpp>
#include <heed/mod/parametric.hpp>
#include <heed/mod/score.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

using namespace softmax_test;
using support::shuffling_executor;

namespace {

constexpr std::pair<index_t, index_t> lengths[] = {{40, 40}, {1, 150}, {130, 70}};

/// Mods against derivatives written by hand.
template <class S = float, class... Mods>
void check_mods(const reference::score_function& by_hand, const Mods&... mods) {
  for (const auto& [N, M] : lengths) {
    backward_problem<S> p({2, 3, 1, N, M, 16, 12});
    reference::softmax_arguments arguments;
    reference::append_score(arguments, by_hand);
    CAPTURE(N, M, heed::dtype_name<S>);
    CHECK(gradient_error_on<heed::default_arch, S>(p, {}, arguments, mods...) <= 1);
  }
}

/// A table of `rows` rows (one for all heads, or one each) and distances up to 3, in front of a mod that bends scores.
template <class S>
void check_table(index_t N, index_t M, index_t rows) {
  constexpr int reach = 3, distances = 2 * reach + 1;
  support::random_engine random(5);
  const auto table = support::normal_tensor<float, 2>({rows, distances}, random);
  tensor<double, 2> gradients({rows, distances}), again({rows, distances});
  const auto distance = [=](int p, int t) { return std::clamp(t - p, -reach, reach) + reach; };
  reference::softmax_arguments arguments;
  arguments.softcap = 4;
  arguments.window_right = 5;
  reference::append_score(
      arguments, {[&](double s, int, int h, int p, int t) { return s + table(rows == 1 ? 0 : h, distance(p, t)); },
                  [](double, int, int, int, int) { return 1.0; },
                  [&](int n, double, int, int h, int p, int t) {
                    return n == (rows == 1 ? 0 : h) * distances + distance(p, t) ? 1.0 : 0.0;
                  },
                  static_cast<int>(rows) * distances, 1, 0});
  reference::append_score(arguments, {[](double s, int, int, int, int) { return 0.25 * s * s + s; },
                                      [](double s, int, int, int, int) { return 0.5 * s + 1; },
                                      {},
                                      0,
                                      4,
                                      0.5});
  const auto bend = [](auto s, auto) { return 0.25f * s * s + s; };
  backward_problem<S> p({2, 3, 1, N, M, 16, 12});
  softmax_backward_options<S> options{.softcap = 4, .window_right = 5};
  CAPTURE(N, M, rows, heed::dtype_name<S>);
  CHECK(gradient_error_on<heed::default_arch, S>(p, options, arguments, heed::relative_bias{table, gradients}, bend) <=
        1);
  const auto expected = reference::softmax_backward<S>(p.q, p.k, p.v, p.dout, {}, arguments);
  constexpr double u = roundoff<typename backward_problem<S>::T>;
  for (index_t n = 0; n < rows * distances; ++n) {
    const auto i = static_cast<std::size_t>(n);
    CHECK(relative_to(gradients(n / distances, n % distances), expected.dscore[i],
                      2 * u * expected.dscore_noise[i] + 1e-300) <= 1);
  }
  shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
  options.executor = heed::executor(shuffled);
  solve<S>(p, options, heed::relative_bias{table, again}, bend);
  CHECK(same_bits<double, 2>(gradients, again));
}

/// Keeps every call.
struct recording_score {
  struct call {
    float dz, s;
    position at;
  };
  std::vector<call>* calls;

  template <class S, class Index>
  S operator()(S score, const heed::basic_position<Index>&) const {
    return score * 3;
  }
  bool one_head_at_a_time() const { return true; }
  void accumulate(float dz, float s, const position& at) const { calls->push_back({dz, s, at}); }
};

double squash(double s) { return 1.5 * std::tanh(s / 1.5); }
double squash_slope(double s) { return 1 - std::pow(std::tanh(s / 1.5), 2); }

}  // namespace

TEST_CASE("the slope of named score mods reaches the gradients") {
  const reference::score_function cap{[](double s, int, int, int, int) { return squash(s); },
                                      [](double s, int, int, int, int) { return squash_slope(s); },
                                      {},
                                      0,
                                      1,
                                      1};
  check_mods(cap, heed::softcap{1.5});
  check_mods<double>(cap, heed::softcap{1.5});
  const std::vector<float> factors{0.5f, 2.f, -1.f};
  check_mods({[&](double s, int, int h, int, int) { return factors[std::size_t(h)] * s; },
              [&](double, int, int h, int, int) { return factors[std::size_t(h)]; },
              {},
              0,
              2,
              0},
             heed::temperature{factors});
  const auto slopes = heed::alibi_slopes(3);
  check_mods({[&](double s, int, int h, int p, int t) { return s - slopes(h) * std::abs(p - t); },
              [](double, int, int, int, int) { return 1.0; },
              {},
              0,
              1,
              0},
             heed::symmetric_alibi{slopes});
  check_mods({[](double s, int, int, int, int) { return std::log(std::exp(s) + 0.5); },
              [](double s, int, int, int, int) { return std::exp(s) / (std::exp(s) + 0.5); },
              {},
              0,
              1,
              1},
             heed::log_activation([](auto s) { return exp(s); }, 0.5));
}

TEST_CASE("the slope of lambdas reaches the gradients, for several queries at a time and for one") {
  const reference::score_function bent{
      [](double s, int, int h, int p, int t) { return 0.3 * s * s + (h + 1) * s - 0.01 * (p - t); },
      [](double s, int, int h, int, int) { return 0.6 * s + h + 1; },
      {},
      0,
      8,
      0.6};
  check_mods(bent, [](auto s, auto at) { return 0.3f * s * s + (at.h + 1) * s - 0.01f * (at.q - at.kv); });
  check_mods(bent, [](auto s, position at) {
    return 0.3f * s * s + (at.h + 1) * s - 0.01f * static_cast<float>(at.q - at.kv);
  });
}

TEST_CASE("score mods are differentiated one after the other, behind softcap and bias") {
  for (const index_t right : {-1, 0}) {
    backward_problem<float> p({1, 2, 1, 70, 150, 16, 12});
    const auto bias = support::normal_tensor<float, 4>({1, 2, 70, 150}, p.random);
    const softmax_backward_options<float> options{.softcap = 2, .bias = bias, .dlse = p.dlse, .window_right = right};
    reference::softmax_arguments arguments = arguments_of<float>(options);
    reference::append_score(arguments, {[](double s, int, int, int, int) { return squash(s); },
                                        [](double s, int, int, int, int) { return squash_slope(s); },
                                        {},
                                        0,
                                        1,
                                        1});
    reference::append_score(arguments, {[](double s, int, int, int p_, int t) { return -2 * s + 0.01 * (p_ + t); },
                                        [](double, int, int, int, int) { return -2.0; },
                                        {},
                                        0,
                                        2,
                                        0});
    CHECK(gradient_error_on<heed::default_arch, float>(p, options, arguments, heed::softcap{1.5}, [](auto s, auto at) {
            return -2 * s + 0.01f * (at.q + at.kv);
          }) <= 1);
  }
}

TEMPLATE_TEST_CASE("gradients by the parameters of score mods", "", float, double) {
  using S = TestType;
  for (const auto& [N, M] : {std::pair<index_t, index_t>{40, 40}, {130, 300}, {600, 70}, {0, 5}}) {
    backward_problem<S> p({2, 2, 1, N, M, 16, 12});
    tensor<double, 1> first({2}), second({1}), d_first({2}), d_second({1});
    first(0) = 1.25;
    first(1) = 0.05;
    second(0) = 0.5;
    // Parameters that are not asked for stand between those that are.
    const auto slope = heed::with_parameters<2>(
        [](auto s, auto at, const auto& w) { return w[0] * s - w[1] * w[0] * abs(at.q - at.kv); }, first, d_first);
    const auto constant = heed::with_parameters<1>([](auto s, auto, const auto& w) { return s * w[0] + w[0]; }, second);
    const auto bend =
        heed::with_parameters<1>([](auto s, position, const auto& w) { return w[0] * tanh(s); }, second, d_second);
    reference::softmax_arguments arguments;
    arguments.window_right = 9;
    reference::append_score(arguments,
                            {[](double s, int, int, int q, int t) { return 1.25 * s - 0.05 * 1.25 * std::abs(q - t); },
                             [](double, int, int, int, int) { return 1.25; },
                             [](int n, double s, int, int, int q, int t) {
                               return n == 0 ? s - 0.05 * std::abs(q - t) : -1.25 * std::abs(q - t);
                             },
                             2, 1.25, 1});
    reference::append_score(arguments, {[](double s, int, int, int, int) { return 0.5 * s + 0.5; },
                                        [](double, int, int, int, int) { return 0.5; },
                                        {},
                                        0,
                                        1,
                                        0});
    reference::append_score(arguments,
                            {[](double s, int, int, int, int) { return 0.5 * std::tanh(s); },
                             [](double s, int, int, int, int) { return 0.5 * (1 - std::pow(std::tanh(s), 2)); },
                             [](int, double s, int, int, int, int) { return std::tanh(s); }, 1, 1, 1});
    CAPTURE(N, M, heed::dtype_name<S>);
    CHECK(gradient_error_on<heed::default_arch, S>(p, {.window_right = 9}, arguments, slope, constant, bend) <= 1);
    const auto expected = reference::softmax_backward<S>(p.q, p.k, p.v, p.dout, {}, arguments);
    constexpr double u = roundoff<typename backward_problem<S>::T>;
    const double got[] = {d_first(0), d_first(1), d_second(0)};
    for (std::size_t n = 0; n < 3; ++n)
      CHECK(relative_to(got[n], expected.dscore[n], 2 * u * expected.dscore_noise[n]) <= 1);
  }
}

TEMPLATE_TEST_CASE("gradients by the elements of a table", "", float, heed::bfloat16) {
  for (const index_t rows : {1, 3})
    for (const auto& [N, M] : lengths) check_table<TestType>(N, M, rows);
}

TEST_CASE("accumulate sees each visible pair once, with the score that the mod was given") {
  backward_problem<float> p({2, 2, 1, 70, 150, 8, 8});
  tensor<float, 4> bias({2, 2, 70, 150});
  support::fill_normal(bias.all(), p.random);
  for (index_t i = 0; i < 70; ++i) bias(0, 1, i, 9) = -std::numeric_limits<float>::infinity();
  std::vector<recording_score::call> calls;
  const auto half = [](auto s, auto) { return s * 0.5f; };
  solve<float>(p, {.scale = 1, .bias = bias}, half, recording_score{&calls}, heed::causal{});
  tensor<float, 4> seen({2, 2, 70, 150});
  bool right = true;
  for (const auto& call : calls) {
    const index_t i = call.at.q - 80, j = call.at.kv;
    seen(call.at.b, call.at.h, i, j) += 1;
    double s = bias(call.at.b, call.at.h, i, j), dp = 0, mean = 0;
    for (index_t d = 0; d < 8; ++d) {
      s += double(p.q(call.at.b, call.at.h, i, d)) * p.k(call.at.b, 0, j, d);
      dp += double(p.dout(call.at.b, call.at.h, i, d)) * p.v(call.at.b, 0, j, d);
      mean += double(p.dout(call.at.b, call.at.h, i, d)) * p.out(call.at.b, call.at.h, i, d);
    }
    const double dz = std::exp(1.5 * s - double(p.lse(call.at.b, call.at.h, i))) * (dp - mean);
    right = right && std::fabs(call.s - 0.5 * s) <= 1e-5 && std::fabs(call.dz - dz) <= 1e-5;
  }
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 70; ++i)
        for (index_t j = 0; j < 150; ++j) {
          const bool visible = j <= i + 80 && !(b == 0 && h == 1 && j == 9);
          right = right && seen(b, h, i, j) <= (visible ? 1 : 0);
        }
  CHECK(right);
  CHECK(calls.size() > 30000);
}
