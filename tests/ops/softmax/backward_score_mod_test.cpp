#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>
#include <heed/mod/parametric.hpp>
#include <heed/mod/score.hpp>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

using namespace softmax_test;

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

double squash(double s) { return 1.5 * std::tanh(s / 1.5); }
double squash_slope(double s) { return 1 - std::pow(std::tanh(s / 1.5), 2); }

}  // namespace

TEST_CASE("the slope of named score mods reaches the gradients") {
  const reference::score_function cap{[](double s, int, int, int, int) { return squash(s); },
                                      [](double s, int, int, int, int) { return squash_slope(s); }, {}, 0, 1, 1};
  check_mods(cap, heed::softcap{1.5});
  check_mods<double>(cap, heed::softcap{1.5});
  const std::vector<float> factors{0.5f, 2.f, -1.f};
  check_mods({[&](double s, int, int h, int, int) { return factors[std::size_t(h)] * s; },
              [&](double, int, int h, int, int) { return factors[std::size_t(h)]; }, {}, 0, 2, 0},
             heed::temperature{factors});
  const auto slopes = heed::alibi_slopes(3);
  check_mods({[&](double s, int, int h, int p, int t) { return s - slopes(h) * std::abs(p - t); },
              [](double, int, int, int, int) { return 1.0; }, {}, 0, 1, 0},
             heed::symmetric_alibi{slopes});
  check_mods({[](double s, int, int, int, int) { return std::log(std::exp(s) + 0.5); },
              [](double s, int, int, int, int) { return std::exp(s) / (std::exp(s) + 0.5); }, {}, 0, 1, 1},
             heed::log_activation([](auto s) { return exp(s); }, 0.5));
}

TEST_CASE("the slope of lambdas reaches the gradients, for several queries at a time and for one") {
  const reference::score_function bent{
      [](double s, int, int h, int p, int t) { return 0.3 * s * s + (h + 1) * s - 0.01 * (p - t); },
      [](double s, int, int h, int, int) { return 0.6 * s + h + 1; }, {}, 0, 8, 0.6};
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
                                        [](double s, int, int, int, int) { return squash_slope(s); }, {}, 0, 1, 1});
    reference::append_score(arguments, {[](double s, int, int, int p_, int t) { return -2 * s + 0.01 * (p_ + t); },
                                        [](double, int, int, int, int) { return -2.0; }, {}, 0, 2, 0});
    CHECK(gradient_error_on<heed::default_arch, float>(p, options, arguments, heed::softcap{1.5}, [](auto s, auto at) {
            return -2 * s + 0.01f * (at.q + at.kv);
          }) <= 1);
  }
}

TEMPLATE_TEST_CASE("gradients by the parameters of score mods", "", float, double, heed::bfloat16) {
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
    const auto bend = heed::with_parameters<1>([](auto s, position, const auto& w) { return w[0] * tanh(s); }, second,
                                               d_second);
    reference::softmax_arguments arguments;
    arguments.window_right = 9;
    reference::append_score(
        arguments, {[](double s, int, int, int q, int t) { return 1.25 * s - 0.05 * 1.25 * std::abs(q - t); },
                    [](double, int, int, int, int) { return 1.25; },
                    [](int n, double s, int, int, int q, int t) {
                      return n == 0 ? s - 0.05 * std::abs(q - t) : -1.25 * std::abs(q - t);
                    },
                    2, 1.25, 1});
    reference::append_score(arguments, {[](double s, int, int, int, int) { return 0.5 * s + 0.5; },
                                        [](double, int, int, int, int) { return 0.5; }, {}, 0, 1, 0});
    reference::append_score(arguments, {[](double s, int, int, int, int) { return 0.5 * std::tanh(s); },
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
