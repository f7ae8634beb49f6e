// Means over the last tokens against their definition, what every operator promises of them, and causal attention with
// padding on the left, which stands behind them.
#include "reference/window_mean.hpp"
#include "ops/linear/measure.hpp"
#include "ops/softmax/problem.hpp"
#include "reference/differences.hpp"
#include "support/allocations.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/compose.hpp>
#include <heed/mod/masks.hpp>
#include <heed/ops/local/window_mean.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

using heed::index_t;
using heed::tensor;
using heed::view;
using support::quiet_nan;

namespace {

/// Tokens of which some, and a stretch, do not count.
template <class S>
struct problem {
  problem(index_t B, index_t N, index_t D) : random(3), mask({B, N}) {
    x = support::normal_tensor<S, 3>({B, N, D}, random);
    dout = support::normal_tensor<S, 3>({B, N, D}, random);
    out = dx = tensor<S, 3>::full({B, N, D}, quiet_nan<S>);
    for (index_t b = 0; b < B; ++b)
      for (index_t i = 0; i < N; ++i)
        mask(b, i) =
            static_cast<std::uint8_t>((i < N / 3 && b == 0) || support::draw(random, 0, 3) == 0 ? 0 : i % 5 + 1);
  }

  reference::window_mean_arguments definition(index_t length, bool masked) const {
    reference::window_mean_arguments a{in_double(x), mask, length};
    if (!masked) a.mask.fill(1);
    return a;
  }
  static tensor<double, 3> in_double(const tensor<S, 3>& t) {
    tensor<double, 3> d({t.extent(0), t.extent(1), t.extent(2)});
    for (index_t i = 0; i < t.size(); ++i) d.data()[i] = static_cast<double>(t.data()[i]);
    return d;
  }

  support::random_engine random;
  tensor<S, 3> x, dout, out, dx;
  tensor<std::uint8_t, 2> mask;
};

template <class A, class S>
void solve_on(problem<S>& p, index_t length, const heed::window_mean_options& options) {
  heed::detail::window_mean_on<A, S>("window_mean_forward", "x", "out", false, p.x, length, p.out, options);
  heed::detail::window_mean_on<A, S>("window_mean_backward", "dout", "dx", true, p.dout, length, p.dx, options);
}

template <class S, class A = heed::default_arch>
void check_shape(index_t B, index_t N, index_t D, index_t length) {
  for (const bool masked : {false, true}) {
    CAPTURE(heed::dtype_name<S>, A::name(), B, N, D, length, masked);
    problem<S> p(B, N, D);
    heed::window_mean_options o;
    if (masked) o.mask = p.mask;
    solve_on<A, S>(p, length, o);
    const auto a = p.definition(length, masked);
    CHECK(linear_test::error<S, 3>(p.out, reference::window_mean(a)) <= 1);
    CHECK(linear_test::error<S, 3>(p.dx, reference::window_mean_backward(a, p.in_double(p.dout))) <= 1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("means over the last tokens and their gradients agree with the definition", "", float, double,
                   heed::bfloat16, heed::float16) {
  for (const index_t length : {1, 2, 7, 64, 5000}) {
    check_shape<TestType>(2, 70, 5, length);
    check_shape<TestType>(1, 1, 1, length);
    check_shape<TestType>(2, 0, 3, length);
    check_shape<TestType>(1, 9, 0, length);
  }
  check_shape<TestType>(1, 2300, 37, 3);
  check_shape<TestType>(1, 2300, 33, 500);
  check_shape<TestType>(1, 2300, 3, 1025);
}

TEST_CASE("means over the last tokens agree with their definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) { check_shape<float, decltype(arch)>(2, 1100, 19, 6); });
}

TEST_CASE("the gradient of a mean over the last tokens is that of its definition") {
  problem<double> p(2, 12, 3);
  auto a = p.definition(4, true);
  const auto loss = [&] { return reference_test::weighted_sum(p.dout, reference::window_mean(a)); };
  reference_test::comparison c;
  const auto slopes = reference_test::differences(a.x, loss);
  c.add(reference::window_mean_backward(a, p.dout), slopes);
  CHECK(c.difference <= reference_test::tolerance * c.size);
}

TEST_CASE("a window of one token gives the tokens that count, a constant comes out as it is") {
  problem<float> p(1, 50, 4);
  solve_on<heed::default_arch>(p, 1, {.mask = p.mask});
  for (index_t i = 0; i < 50; ++i) CHECK(p.out(0, i, 2) == (p.mask(0, i) != 0 ? p.x(0, i, 2) : 0.0f));
  p.x.fill(3);
  solve_on<heed::default_arch>(p, 8, {});
  for (const float y : p.out) CHECK(y == Catch::Approx(3).epsilon(1e-6));
}

TEST_CASE("tokens that do not count are not read; NaN stays in the windows that hold it") {
  problem<float> clean(2, 200, 5), p = clean;
  for (index_t b = 0; b < 2; ++b)
    for (index_t i = 0; i < 200; ++i)
      for (index_t d = 0; clean.mask(b, i) == 0 && d < 5; ++d) p.x(b, i, d) = quiet_nan<float>;
  // The first 66 tokens of entry 0 do not count.
  for (index_t i = 0; i < 60; ++i) p.dout(0, i, 1) = quiet_nan<float>;
  solve_on<heed::default_arch>(clean, 6, {.mask = clean.mask});
  solve_on<heed::default_arch>(p, 6, {.mask = p.mask});
  CHECK(support::same_bits<float, 3>(p.out, clean.out));
  CHECK(support::same_bits<float, 3>(p.dx, clean.dx));
  CHECK(clean.out(0, 60, 3) == 0);
  CHECK(clean.dx(0, 60, 3) == 0);

  for (const float bad : {quiet_nan<float>, std::numeric_limits<float>::infinity()}) {
    p = clean;
    p.x(1, 100, 2) = p.dout(1, 100, 2) = bad;
    solve_on<heed::default_arch>(p, 6, {});
    for (index_t i = 0; i < 200; ++i) {
      CHECK(std::isfinite(p.out(1, i, 2)) == (i < 100 || i >= 106));
      CHECK(std::isfinite(p.dx(1, i, 2)) == (i > 100 || i <= 94));
    }
  }
}

TEST_CASE("strides, workers and scratch change no bit of a mean over the last tokens") {
  problem<float> dense(2, 2100, 35);
  solve_on<heed::default_arch>(dense, 9, {.mask = dense.mask, .executor = heed::serial()});
  for (const auto where : support::layouts) {
    const auto x = support::laid_out(dense.x, where), dout = support::laid_out(dense.dout, where);
    auto out = support::output_like(dense.out, where), dx = support::output_like(dense.dx, where);
    // The layouts reorder axes 1 and 2; what counts here is that the last one stays contiguous.
    if (x.all().stride(2) != 1) continue;
    heed::window_mean_forward(x.all(), 9, out.all(), {.mask = dense.mask});
    heed::window_mean_backward(dout.all(), 9, dx.all(), {.mask = dense.mask});
    CHECK(support::same_bits<float, 3>(out.all(), dense.out));
    CHECK(support::same_bits<float, 3>(dx.all(), dense.dx));
    CHECK(out.intact());
    CHECK(dx.intact());
  }
  support::for_each_executor([&](heed::executor_ref executor, const char* name) {
    CAPTURE(name);
    problem<float> p(2, 2100, 35);
    solve_on<heed::default_arch>(p, 9, {.mask = p.mask, .executor = executor});
    CHECK(support::same_bits<float, 3>(p.out, dense.out));
    CHECK(support::same_bits<float, 3>(p.dx, dense.dx));
  });
  heed::window_mean_options o{.mask = dense.mask, .executor = heed::serial()};
  std::vector<unsigned char> memory(static_cast<std::size_t>(heed::window_mean_scratch_bytes<float>(dense.x, 9, o)),
                                    0xff);
  o.scratch = {memory.data(), static_cast<index_t>(memory.size())};
  problem<float> p(2, 2100, 35);
  CHECK(support::allocations_of([&] { heed::window_mean_forward(p.x, 9, p.out, o); }) == 0);
  CHECK(support::same_bits<float, 3>(p.out, dense.out));
  o.scratch.bytes -= 1;
  support::check_refusal("window_mean_forward", {"options.scratch", "at least"},
                         [&] { heed::window_mean_forward(p.x, 9, p.out, o); });
}

TEST_CASE("means over the last tokens refuse what they cannot work on, before any write") {
  problem<float> p(2, 9, 4);
  const view<float, 3> x = p.x, out = p.out;
  const auto refuses = [&](const std::vector<std::string>& parts, const auto& call) {
    support::check_refusal("window_mean_forward", parts, call);
    CHECK(std::all_of(p.out.begin(), p.out.end(), [](float y) { return std::isnan(y); }));
  };
  refuses({"length (L)", "at least 1", "got 0"}, [&] { heed::window_mean_forward(x, 0, out); });
  refuses({"out.extent(1)", "9 (as x)", "got 8"}, [&] { heed::window_mean_forward(x, 2, out.slice(1, 0, 8)); });
  refuses({"options.mask.extent(1)", "9 (N)", "got 8"},
          [&] { heed::window_mean_forward(x, 2, out, {.mask = p.mask.all().slice(1, 0, 8)}); });
  refuses({"out: expected no overlap"}, [&] { heed::window_mean_forward(out, 2, out); });
  refuses({"x", "a last axis of stride 1"},
          [&] { heed::window_mean_forward(view<const float, 3>(x.data(), {2, 9, 4}, {36, 1, 9}), 2, out); });
  support::check_refusal("window_mean_backward", {"dx.extent(2)", "4 (as dout)"},
                         [&] { heed::window_mean_backward(x, 2, view<float, 3>(out.data(), {2, 9, 3})); });
}

TEST_CASE("causal attention of sequences that are padded on the left is that of their tokens alone") {
  softmax_test::problem<double> p({2, 2, 1, 40, 40, 8, 5});
  const std::vector<std::int32_t> begin{13, 0}, end{40, 40};
  for (index_t j = 0; j < 13; ++j)
    for (index_t d = 0; d < 5; ++d) p.k(0, 0, j, d) = p.v(0, 0, j, d) = quiet_nan<double>;
  const auto mask = heed::causal{} & heed::padding{begin, end};
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse}, mask);
  for (index_t b = 0; b < 2; ++b) {
    const index_t first = begin[static_cast<std::size_t>(b)];
    const auto own = [&](const auto& t) { return t.all().slice(0, b, b + 1).slice(2, first, 40); };
    tensor<double, 4> alone({1, 2, 40 - first, 5});
    heed::softmax_forward(own(p.q), own(p.k), own(p.v), alone, {}, heed::causal{});
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 40; ++i)
        for (index_t e = 0; e < 5; ++e) {
          if (i < first)
            CHECK(p.out(b, h, i, e) == 0);
          else
            CHECK(p.out(b, h, i, e) == Catch::Approx(alone(0, h, i - first, e)).epsilon(1e-12));
        }
  }
}
