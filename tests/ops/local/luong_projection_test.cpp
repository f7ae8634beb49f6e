// The maps in front of Luong's scores against their definitions, and what every operator promises of them.
#include "ops/linear/measure.hpp"
#include "reference/differences.hpp"
#include "reference/luong.hpp"
#include "support/allocations.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/ops/local/luong_projection.hpp>

#include <algorithm>
#include <vector>

using heed::index_t;
using heed::tensor;
using heed::view;
using linear_test::error;
using support::quiet_nan;
using support::same_bits;

namespace {

struct shape {
  index_t B, N, I, O;
};

/// Both operators: x W + bias, and positions with W and v.
template <class S>
struct problem {
  using T = heed::accumulator_t<S>;

  explicit problem(const shape& s) : random(5) {
    x = support::normal_tensor<S, 3>({s.B, s.N, s.I}, random);
    w = support::normal_tensor<S, 2>({s.I, s.O}, random, 0.3);
    bias = support::normal_tensor<T, 1>({s.O}, random);
    dout = support::normal_tensor<S, 3>({s.B, s.N, s.O}, random);
    dp = support::normal_tensor<T, 2>({s.B, s.N}, random);
    out = tensor<S, 3>::full({s.B, s.N, s.O}, quiet_nan<S>);
    dx = dh = tensor<S, 3>::full({s.B, s.N, s.I}, quiet_nan<S>);
    dw = dw_p = tensor<S, 2>::full({s.I, s.O}, quiet_nan<S>);
    dbias = dv = tensor<T, 1>::full({s.O}, quiet_nan<T>);
    p = tensor<T, 2>::full({s.B, s.N}, quiet_nan<T>);
    for (index_t b = 0; b < s.B; ++b) lengths.push_back(b == 0 ? 7 : 20);
  }

  support::random_engine random;
  tensor<S, 3> x, dout, out, dx, dh;
  tensor<S, 2> w, dw, dw_p;
  tensor<T, 1> bias, dbias, dv;
  tensor<T, 2> p, dp;
  std::vector<index_t> lengths;
};

template <class A, class S>
void solve_on(problem<S>& p, heed::executor_ref where = {}) {
  namespace d = heed::detail;
  d::luong_projection_forward_on<A, S>(p.x, p.w, p.out, {.bias = p.bias, .executor = where});
  d::luong_projection_backward_on<A, S>(p.x, p.w, p.dout, p.dx, p.dw, {.dbias = p.dbias, .executor = where});
  d::luong_positions_forward_on<A, S>(p.x, p.w, p.bias, 20, p.p, {.lengths = p.lengths, .executor = where});
  d::luong_positions_backward_on<A, S>(p.x, p.w, p.bias, 20, p.dp, p.dh, p.dw_p, p.dv,
                                       {.lengths = p.lengths, .executor = where});
}

template <int Rank, class S>
tensor<double, Rank> in_double(const tensor<S, Rank>& t) {
  index_t extents[Rank];
  for (int axis = 0; axis < Rank; ++axis) extents[axis] = t.extent(axis);
  tensor<double, Rank> d(extents);
  for (index_t i = 0; i < t.size(); ++i) d.data()[i] = static_cast<double>(t.data()[i]);
  return d;
}

template <class S, class A = heed::default_arch>
void check_shape(const shape& s) {
  using T = heed::accumulator_t<S>;
  CAPTURE(heed::dtype_name<S>, A::name(), s.B, s.N, s.I, s.O);
  problem<S> p(s);
  solve_on<A, S>(p);
  const auto x = in_double(p.x), dout = in_double(p.dout);
  const auto w = in_double(p.w);
  const auto bias = in_double(p.bias);
  constexpr double allowed = linear_test::gradient_tolerance<S>;
  CHECK(error<S, 3>(p.out, reference::luong_projection(x, w, bias)) <= 1);
  const auto g = reference::luong_projection_backward(x, w, dout);
  CHECK(error<S, 3>(p.dx, g.dx, allowed) <= 1);
  CHECK(error<S, 2>(p.dw, g.dw, allowed) <= 1);
  CHECK(error<T, 1>(p.dbias, g.dvector, allowed) <= 1);
  const reference::luong_prediction a{x, w, bias, p.lengths};
  CHECK(error<T, 2>(p.p, reference::luong_positions(a), allowed) <= 1);
  const auto h = reference::luong_positions_backward(a, in_double(p.dp));
  CHECK(error<S, 3>(p.dh, h.dx, allowed) <= 1);
  CHECK(error<S, 2>(p.dw_p, h.dw, allowed) <= 1);
  CHECK(error<T, 1>(p.dv, h.dvector, allowed) <= 1);
}

template <class S>
bool same_result(const problem<S>& a, const problem<S>& b) {
  using T = heed::accumulator_t<S>;
  return same_bits<S, 3>(a.out, b.out) && same_bits<S, 3>(a.dx, b.dx) && same_bits<S, 2>(a.dw, b.dw) &&
         same_bits<T, 1>(a.dbias, b.dbias) && same_bits<T, 2>(a.p, b.p) && same_bits<S, 3>(a.dh, b.dh) &&
         same_bits<S, 2>(a.dw_p, b.dw_p) && same_bits<T, 1>(a.dv, b.dv);
}

}  // namespace

TEMPLATE_TEST_CASE("maps of states and predicted positions agree with their definitions", "", float, double,
                   heed::bfloat16, heed::float16) {
  for (const shape& s : {shape{2, 29, 7, 13}, shape{1, 300, 16, 24}, shape{3, 64, 33, 8}, shape{1, 1, 1, 1},
                         shape{1, 0, 5, 6}, shape{0, 3, 5, 6}, shape{2, 5, 4, 0}})
    check_shape<TestType>(s);
}

TEST_CASE("maps of states agree with their definitions on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) { check_shape<float, decltype(arch)>({2, 70, 9, 21}); });
}

TEST_CASE("the gradients of maps of states are those of their definitions") {
  problem<double> p({2, 3, 4, 3});
  reference::luong_prediction a{p.x, p.w, p.bias, p.lengths};
  const auto h = reference::luong_positions_backward(a, p.dp);
  const auto loss = [&] {
    const tensor<double, 2> positions = reference::luong_positions(a);
    double sum = 0;
    for (index_t i = 0; i < positions.size(); ++i) sum += p.dp.data()[i] * positions.data()[i];
    return sum;
  };
  reference_test::comparison c;
  c.add(h.dx, reference_test::differences(a.h, loss));
  c.add(h.dw, reference_test::differences(a.w, loss));
  c.add(h.dvector, reference_test::differences(a.v, loss));
  const auto g = reference::luong_projection_backward(p.x, p.w, p.dout);
  const auto projected = [&] {
    return reference_test::weighted_sum(p.dout, reference::luong_projection(a.h, a.w, a.v));
  };
  c.add(g.dx, reference_test::differences(a.h, projected));
  c.add(g.dw, reference_test::differences(a.w, projected));
  c.add(g.dvector, reference_test::differences(a.v, projected));
  CHECK(c.difference <= reference_test::tolerance * (1 + c.size));
}

TEST_CASE("strides, workers and scratch change no bit of maps of states") {
  problem<float> dense({2, 400, 12, 20});
  solve_on<heed::default_arch>(dense, heed::serial());
  support::for_each_executor([&](heed::executor_ref executor, const char* name) {
    CAPTURE(name);
    problem<float> p({2, 400, 12, 20});
    solve_on<heed::default_arch>(p, executor);
    CHECK(same_result(p, dense));
  });
  const auto x = support::laid_out(dense.x, support::layout::padded);
  auto out = support::output_like(dense.out, support::layout::padded);
  auto dx = support::output_like(dense.dx, support::layout::padded);
  heed::luong_projection_forward(x.all(), dense.w, out.all(), {.bias = dense.bias});
  problem<float> p({2, 400, 12, 20});
  heed::luong_projection_backward(x.all(), dense.w, dense.dout, dx.all(), p.dw);
  CHECK(same_bits<float, 3>(out.all(), dense.out));
  CHECK(same_bits<float, 3>(dx.all(), dense.dx));
  CHECK(same_bits<float, 2>(p.dw, dense.dw));
  CHECK(out.intact());
  CHECK(dx.intact());

  const index_t first = heed::luong_projection_forward_scratch_bytes<float>(p.x, p.w, heed::serial());
  const index_t second = heed::luong_projection_backward_scratch_bytes<float>(p.x, p.w, heed::serial());
  std::vector<unsigned char> memory(static_cast<std::size_t>(std::max(first, second)), 0xff);
  const heed::scratch_view forward{memory.data(), first}, backward{memory.data(), second};
  const auto call = [&] {
    heed::luong_projection_forward(p.x, p.w, p.out, {.bias = p.bias, .scratch = forward, .executor = heed::serial()});
    heed::luong_projection_backward(p.x, p.w, p.dout, p.dx, p.dw,
                                    {.dbias = p.dbias, .scratch = backward, .executor = heed::serial()});
    heed::luong_positions_forward(p.x, p.w, p.bias, 20, p.p,
                                  {.lengths = p.lengths, .scratch = forward, .executor = heed::serial()});
    heed::luong_positions_backward(p.x, p.w, p.bias, 20, p.dp, p.dh, p.dw_p, p.dv,
                                   {.lengths = p.lengths, .scratch = backward, .executor = heed::serial()});
  };
  CHECK(support::allocations_of(call) == 0);
  CHECK(same_result(p, dense));
}

TEST_CASE("maps of states refuse what they cannot work on, before any write") {
  problem<float> p({2, 9, 4, 6});
  const auto untouched = [](const auto& t) {
    return std::all_of(t.begin(), t.end(), [](float y) { return std::isnan(y); });
  };
  const view<float, 3> out = p.out, dx = p.dx;
  support::check_refusal("luong_projection_forward", {"w.extent(0)", "4 (as x)", "got 3"},
                         [&] { heed::luong_projection_forward(p.x, support::with_extents(p.w.all(), {3, 6}), out); });
  support::check_refusal("luong_projection_forward", {"out.extent(2)", "6 (O, as w)"},
                         [&] { heed::luong_projection_forward(p.x, p.w, support::with_extents(out, {2, 9, 5})); });
  support::check_refusal("luong_projection_forward", {"options.bias.extent(0)", "6 (as w)"}, [&] {
    heed::luong_projection_forward(p.x, p.w, out, {.bias = support::with_extents(p.bias.all(), {5})});
  });
  support::check_refusal("luong_projection_forward", {"out: expected no overlap"}, [&] {
    heed::luong_projection_forward(view<const float, 3>(out.data(), {2, 9, 4}), p.w, out);
  });
  support::check_refusal("luong_projection_backward", {"dw.extent(1)", "6"}, [&] {
    heed::luong_projection_backward(p.x, p.w, p.dout, dx, support::with_extents(p.dw.all(), {4, 5}));
  });
  support::check_refusal("luong_positions_forward", {"v_p.extent(0)", "6 (as w_p)"}, [&] {
    heed::luong_positions_forward(p.x, p.w, support::with_extents(p.bias.all(), {5}), 20, p.p);
  });
  support::check_refusal("luong_positions_forward", {"options.lengths", "got 20"},
                         [&] { heed::luong_positions_forward(p.x, p.w, p.bias, 19, p.p, {.lengths = p.lengths}); });
  support::check_refusal("luong_positions_backward", {"dpositions.extent(1)", "9 (N, as h_t)"}, [&] {
    heed::luong_positions_backward(p.x, p.w, p.bias, 20, support::with_extents(p.dp.all(), {2, 8}), p.dh, p.dw_p, p.dv);
  });
  CHECK(untouched(p.out));
  CHECK(untouched(p.dx));
  CHECK(untouched(p.dw));
  CHECK(untouched(p.p));
  CHECK(untouched(p.dh));
}
