#include "ops/linear/measure.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/ops/linear/slot_gates.hpp>

#include <limits>

using namespace linear_test;
using support::check_refusal;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// In long double, so that double is measured too.
struct exact_gates {
  long double g, s, gate, complement;

  exact_gates(double f, double tau) {
    const long double x = f, small = std::exp(-std::fabs(x));
    g = (std::fmin(x, 0.0L) - std::log1p(small)) / tau;
    s = -std::expm1(g);
    gate = std::exp(g);
    complement = (x < 0 ? 1 : small) / (1 + small);
  }
};

template <class T>
constexpr long double unit = std::numeric_limits<T>::epsilon() / 2;

/// Logits of every size: N(0, 1), and up to where gates are 1 or 0 in T.
template <class S>
tensor<S, 4> logits(const index_t (&extents)[4]) {
  support::random_engine random(1);
  tensor<S, 4> f = support::normal_tensor<S, 4>(extents, random);
  const double sizes[] = {1, 1e-3, 8, 30, 80};
  for (index_t i = 0; i < f.size(); ++i) f.data()[i] = static_cast<S>(static_cast<double>(f.data()[i]) * sizes[i % 5]);
  return f;
}

template <class A, class S>
void check_accuracy(double tau) {
  using T = heed::accumulator_t<S>;
  CAPTURE(A::name(), tau);
  const tensor<S, 4> f = logits<S>({2, 3, 70, 37});
  support::random_engine random(2);
  const tensor<T, 4> ds = support::normal_tensor<T, 4>({2, 3, 70, 37}, random);
  const tensor<T, 4> dg = support::normal_tensor<T, 4>({2, 3, 70, 37}, random);
  tensor<T, 4> s({2, 3, 70, 37}), g({2, 3, 70, 37});
  tensor<S, 4> df({2, 3, 70, 37});
  heed::detail::slot_gates_forward_on<A, S>(f, s, g, {.tau = tau});
  heed::detail::slot_gates_backward_on<A, S>(f, ds, dg, df, {.tau = tau});
  const auto difference = [](auto got, long double expected) {
    return std::fabs(static_cast<long double>(got) - expected);
  };
  // Below the normal range numbers have fewer digits, and damping divides what is left of them.
  const long double tiny = 4 * static_cast<long double>(std::numeric_limits<T>::min()) / std::fmin(1, tau);
  constexpr long double rounding = std::is_same_v<S, T> ? 0 : std::is_same_v<S, heed::bfloat16> ? 0x1p-8L : 0x1p-11L;
  const long double least = std::is_same_v<S, heed::float16> ? 0x1p-24L : tiny;
  double of_g = 0, of_s = 0, of_f = 0;
  for (index_t i = 0; i < f.size(); ++i) {
    const exact_gates exact(static_cast<double>(f.data()[i]), tau);
    of_g = worse(of_g, static_cast<double>(difference(g.data()[i], exact.g) /
                                           (8 * unit<T> * std::fabs(exact.g) + tiny * unit<T>)));
    of_s =
        worse(of_s, static_cast<double>(difference(s.data()[i], exact.s) / (10 * unit<T> * exact.s + tiny * unit<T>)));
    const long double size = exact.complement / tau;
    const long double a = static_cast<long double>(dg.data()[i]), b = static_cast<long double>(ds.data()[i]);
    const long double expected = (a - exact.gate * b) * size;
    of_f = worse(of_f, static_cast<double>(difference(static_cast<double>(df.data()[i]), expected) /
                                           (16 * unit<T> * (std::fabs(a) + std::fabs(b)) * size +
                                            rounding * std::fabs(expected) + least)));
  }
  CHECK(of_g <= 1);
  CHECK(of_s <= 1);
  CHECK(of_f <= 1);
}

}  // namespace

TEMPLATE_TEST_CASE("gates, strengths and their gradients keep all digits, on every instruction set", "", float, double,
                   heed::bfloat16, heed::float16) {
  support::for_each_distinct_arch([](auto arch) {
    for (const double tau : {8.0, 1.0, 0.1, 1000.0}) check_accuracy<decltype(arch), TestType>(tau);
  });
}

TEST_CASE("gates of infinite logits are 0 or 1, and their gradients 0 or finite") {
  tensor<float, 4> f({1, 1, 1, 3}), s({1, 1, 1, 3}), g({1, 1, 1, 3}), df({1, 1, 1, 3});
  const auto ones = tensor<float, 4>::full({1, 1, 1, 3}, 1);
  f(0, 0, 0, 0) = static_cast<float>(-infinity);
  f(0, 0, 0, 1) = static_cast<float>(infinity);
  heed::slot_gates_forward(f, s, g);
  CHECK(g(0, 0, 0, 0) == -infinity);
  CHECK(s(0, 0, 0, 0) == 1);
  CHECK(g(0, 0, 0, 1) == 0);
  CHECK(s(0, 0, 0, 1) == 0);
  CHECK(std::exp(static_cast<double>(g(0, 0, 0, 2))) == Approx(0.917004));
  heed::slot_gates_backward(f, ones, ones, df);
  CHECK(df(0, 0, 0, 0) == 0.125f);
  CHECK(df(0, 0, 0, 1) == 0);
}

TEST_CASE("gradients by logits are those of differences") {
  tensor<double, 4> f({1, 2, 3, 5}), s({1, 2, 3, 5}), g({1, 2, 3, 5}), df({1, 2, 3, 5});
  support::random_engine random(4);
  support::fill_normal(f.all(), random, 2);
  const auto ds = support::normal_tensor<double, 4>({1, 2, 3, 5}, random);
  const auto dg = support::normal_tensor<double, 4>({1, 2, 3, 5}, random);
  heed::slot_gates_backward(f, ds, dg, df, {.tau = 3});
  const auto loss = [&] {
    heed::slot_gates_forward(f, s, g, {.tau = 3});
    double sum = 0;
    for (index_t i = 0; i < f.size(); ++i) sum += s.data()[i] * ds.data()[i] + g.data()[i] * dg.data()[i];
    return sum;
  };
  for (index_t i = 0; i < f.size(); ++i) {
    const double at = f.data()[i], step = 1e-5;
    f.data()[i] = at + step;
    const double above = loss();
    f.data()[i] = at - step;
    const double below = loss();
    f.data()[i] = at;
    CHECK(df.data()[i] == Approx((above - below) / (2 * step)).epsilon(1e-6).margin(1e-9));
  }
}

TEST_CASE("logits may lie in any way, and any executor makes the same gates of them") {
  const tensor<float, 4> f = logits<float>({2, 3, 150, 21});
  tensor<float, 4> s({2, 3, 150, 21}), g({2, 3, 150, 21}), df({2, 3, 150, 21});
  heed::slot_gates_forward(f, s, g, {.executor = heed::serial()});
  heed::slot_gates_backward(f, s, g, df, {.executor = heed::serial()});
  for (const support::layout where : support::layouts) {
    auto laid = support::laid_out<float, 4>(f, where), ds = support::laid_out<float, 4>(s, where);
    auto dg = support::laid_out<float, 4>(g, where);
    const auto place = [&] {
      return support::guarded<float, 4>({2, 3, 150, 21}, where, support::quiet_nan<float>, 42);
    };
    auto s2 = place(), g2 = place(), df2 = place();
    support::for_each_executor([&](heed::executor_ref executor, const char*) {
      heed::slot_gates_forward(laid.all(), s2.all(), g2.all(), {.executor = executor});
      heed::slot_gates_backward(laid.all(), ds.all(), dg.all(), df2.all(), {.executor = executor});
      CHECK(same_bits<float, 4>(s, s2.all()));
      CHECK(same_bits<float, 4>(g, g2.all()));
      CHECK(same_bits<float, 4>(df, df2.all()));
      CHECK((s2.intact() && g2.intact() && df2.intact()));
    });
  }
}

TEST_CASE("no logits make no gates") {
  tensor<float, 4> none({2, 3, 0, 4}), empty({2, 3, 5, 0});
  CHECK_NOTHROW(heed::slot_gates_forward(none, none, none));
  CHECK_NOTHROW(heed::slot_gates_backward(empty, empty, empty, empty));
}

TEST_CASE("slot gates refuse tensors that do not fit, and no damping") {
  tensor<float, 4> f({1, 2, 5, 4}), s({1, 2, 5, 4}), g({1, 2, 5, 4}), wrong({1, 2, 5, 3});
  for (const double tau : {0.0, -1.0, infinity, support::quiet_nan<double>}) {
    check_refusal("slot_gates_forward", {"options.tau"}, [&] { heed::slot_gates_forward(f, s, g, {.tau = tau}); });
    check_refusal("slot_gates_backward", {"options.tau"},
                  [&] { heed::slot_gates_backward(f, s, g, tensor<float, 4>({1, 2, 5, 4}), {.tau = tau}); });
  }
  check_refusal("slot_gates_forward", {"s.extent(3)"}, [&] { heed::slot_gates_forward(f, wrong, g); });
  check_refusal("slot_gates_forward", {"g.extent(3)"}, [&] { heed::slot_gates_forward(f, s, wrong); });
  check_refusal("slot_gates_forward", {"g", "overlap"}, [&] { heed::slot_gates_forward(f, s, s); });
  check_refusal("slot_gates_forward", {"s", "overlap"}, [&] { heed::slot_gates_forward(f, f, g); });
  check_refusal("slot_gates_forward", {"s", "null"},
                [&] { heed::slot_gates_forward(f, view<float, 4>(nullptr, {1, 2, 5, 4}), g); });
  check_refusal("slot_gates_backward", {"ds"}, [&] { heed::slot_gates_backward(f, wrong, g, s); });
  check_refusal("slot_gates_backward", {"dg"}, [&] { heed::slot_gates_backward(f, g, wrong, s); });
  check_refusal("slot_gates_backward", {"df", "overlap"}, [&] { heed::slot_gates_backward(f, s, g, g); });
}
