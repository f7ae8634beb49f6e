// What follows from the definition of window attention.
#include "ops/local/swin.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <heed/mod/position.hpp>

#include <utility>
#include <vector>

using namespace local_test;
using support::copy_into;

namespace {

/// The most by which two results in double may differ.
constexpr double tolerance = 1e-11;

template <int Rank>
double difference(const tensor<double, Rank>& a, const tensor<double, Rank>& b) {
  double worst = 0;
  for (index_t i = 0; i < a.size(); ++i) worst = worse(worst, std::fabs(a.data()[i] - b.data()[i]));
  return worst;
}

double difference(const swin_problem<double>& a, const swin_problem<double>& b) {
  double worst = difference<4>(a.out, b.out);
  for (const auto& [x, y] : {std::pair{&a.dq, &b.dq}, {&a.dk, &b.dk}, {&a.dv, &b.dv}})
    worst = worse(worst, difference<4>(*x, *y));
  return worst;
}

/// Copies tokens of a to tokens of b: from(token of b) is the token of a, or -1.
template <class From>
void move_tokens(const tensor<double, 4>& a, tensor<double, 4>& b, const From& from) {
  for (index_t n = 0; n < a.extent(0); ++n)
    for (index_t h = 0; h < a.extent(1); ++h)
      for (index_t i = 0; i < b.extent(2); ++i)
        if (from(i) >= 0) copy_into<double, 1>(a.all()[n][h][from(i)], b.all()[n][h][i]);
}
template <class From>
void move_inputs(const swin_problem<double>& a, swin_problem<double>& b, const From& from) {
  for (const auto& [x, y] : {std::pair{&a.q, &b.q}, {&a.k, &b.k}, {&a.v, &b.v}, {&a.dout, &b.dout}})
    move_tokens(*x, *y, from);
}

}  // namespace

TEST_CASE("without a shift, windows are calls of softmax attention of their own") {
  swin_problem<double> p({2, 4, 2, {9, 12}, {3, 4}, {0, 0}, false, false, 7, 5});
  solve(p);
  for (index_t y = 0; y < 3; ++y)
    for (index_t x = 0; x < 3; ++x) {
      softmax_test::problem<double> window({2, 4, 2, 12, 12, 7, 5});
      const auto token = [&](index_t i) { return (3 * y + i / 4) * 12 + 4 * x + i % 4; };
      for (const auto& [from, to] : {std::pair{&p.q, &window.q}, {&p.k, &window.k}, {&p.v, &window.v}})
        move_tokens(*from, *to, token);
      heed::softmax_forward(window.q, window.k, window.v, window.out);
      tensor<double, 4> expected({2, 4, 12, 5});
      move_tokens(p.out, expected, token);
      CHECK(difference<4>(window.out, expected) < tolerance);
    }
}

TEST_CASE("with a shift, window attention is dense attention under the region rule on the places of tokens") {
  const swin_shape s{2, 2, 1, {10, 15}, {5, 5}, {2, 3}, false, false, 7, 5};
  swin_problem<double> p(s);
  solve(p);
  // Rolled tokens are in one window, and wrapped ones do not see those that are not.
  const auto axis = [](index_t a, index_t b, index_t length, index_t shift) {
    const auto rolled = [&](index_t t) { return (t - shift + length) % length; };
    return rolled(a) / 5 == rolled(b) / 5 && (a < shift) == (b < shift);
  };
  const auto mask = [&](const heed::position& at) {
    return axis(at.q / 15, at.kv / 15, 10, 2) && axis(at.q % 15, at.kv % 15, 15, 3);
  };
  softmax_test::backward_problem<double> dense({2, 2, 1, 150, 150, 7, 5});
  dense.q = p.q;
  dense.k = p.k;
  dense.v = p.v;
  dense.dout = p.dout;
  softmax_test::solve<double>(dense, {}, mask);
  CHECK(difference<4>(p.out, dense.out) < tolerance);
  CHECK(difference<3>(p.lse, dense.lse) < tolerance);
  CHECK(difference<4>(p.dq, dense.dq) < tolerance);
  CHECK(difference<4>(p.dk, dense.dk) < tolerance);
  CHECK(difference<4>(p.dv, dense.dv) < tolerance);
}

TEST_CASE("tokens rolled by whole windows roll the result, bit for bit") {
  const swin_shape s{1, 2, 2, {8, 12}, {4, 3}, {0, 0}, true, false, 8, 8};
  swin_problem<double> p(s), rolled(s);
  const auto from = [](index_t i) { return (i / 12 + 4) % 8 * 12 + (i % 12 + 6) % 12; };
  move_inputs(p, rolled, from);
  solve(p);
  solve(rolled);
  for (const auto& [x, y] :
       {std::pair{&p.out, &rolled.out}, {&p.dq, &rolled.dq}, {&p.dk, &rolled.dk}, {&p.dv, &rolled.dv}}) {
    tensor<double, 4> expected = *y;
    move_tokens(*x, expected, from);
    CHECK(same_bits<double, 4>(expected, *y));
  }
}

TEST_CASE("a table of zeros is none; a constant in it shifts lse alone") {
  const swin_shape s{1, 2, 1, {9, 9}, {4, 5}, {1, 2}, true, false, 8, 6};
  swin_problem<double> zeros(s), constants(s), without({1, 2, 1, {9, 9}, {4, 5}, {1, 2}, false, false, 8, 6});
  zeros.table.fill(0);
  constants.table.fill(3);
  solve(zeros);
  solve(constants);
  solve(without);
  CHECK(difference(zeros, without) < tolerance);
  CHECK(difference(constants, without) < tolerance);
  for (index_t i = 0; i < without.lse.size(); ++i)
    CHECK(constants.lse.data()[i] == Catch::Approx(without.lse.data()[i] + 3));
  // Constants in the scores of a query change nothing, so gradients by the table add up to nothing.
  for (index_t h = 0; h < 2; ++h) {
    double sum = 0;
    for (index_t u = 0; u < zeros.dtable.extent(0); ++u) sum += zeros.dtable(u, h);
    CHECK(std::fabs(sum) < tolerance);
  }
}

TEST_CASE("a window no smaller than the grid is softmax attention, whatever the shift") {
  for (const token_grid window : {token_grid{7, 9}, token_grid{6, 8}}) {
    swin_problem<double> p({2, 2, 1, {6, 8}, window, {3, 2}, false, false, 8, 6});
    solve(p);
    softmax_test::problem<double> whole({2, 2, 1, 48, 48, 8, 6});
    heed::softmax_forward(p.q, p.k, p.v, whole.out);
    CHECK(difference<4>(p.out, whole.out) < tolerance);
  }
}

TEST_CASE("missing places that attend are tokens with their keys and values") {
  for (const window_shift shift : {window_shift{0, 0}, window_shift{3, 2}}) {
    swin_problem<double> p({2, 2, 2, {6, 7}, {4, 5}, shift, true, true, 8, 6});
    swin_problem<double> whole({2, 2, 2, {8, 10}, {4, 5}, shift, true, false, 8, 6});
    const auto from = [](index_t i) { return i / 10 < 6 && i % 10 < 7 ? i / 10 * 7 + i % 10 : -1; };
    whole.table = p.table;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < 80; ++i) {
          copy_into<double, 1>(p.k_pad.all()[h], whole.k.all()[b][h][i]);
          copy_into<double, 1>(p.v_pad.all()[h], whole.v.all()[b][h][i]);
        }
    whole.dout.fill(0);
    move_inputs(p, whole, from);
    solve(p);
    solve(whole);
    const auto to = [](index_t i) { return i / 7 * 10 + i % 7; };
    for (const auto& [x, y] :
         {std::pair{&whole.out, &p.out}, {&whole.dq, &p.dq}, {&whole.dk, &p.dk}, {&whole.dv, &p.dv}}) {
      tensor<double, 4> expected = *y;
      move_tokens(*x, expected, to);
      CHECK(difference<4>(expected, *y) < tolerance);
    }
    CHECK(difference<2>(p.dtable, whole.dtable) < tolerance);
    tensor<double, 2> dk_pad({2, 8});
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < 80; ++i)
          for (index_t d = 0; d < 8 && from(i) < 0; ++d) dk_pad(h, d) += whole.dk(b, h, i, d);
    CHECK(difference<2>(p.dk_pad, dk_pad) < tolerance);
  }
}

TEST_CASE("shared kv heads equal repeated ones for window attention, bit for bit, and their gradients are sums") {
  swin_problem<double> shared({1, 4, 2, {7, 6}, {4, 3}, {1, 1}, true, false, 8, 6});
  swin_problem<double> repeated({1, 4, 4, {7, 6}, {4, 3}, {1, 1}, true, false, 8, 6});
  repeated.q = shared.q;
  repeated.dout = shared.dout;
  repeated.table = shared.table;
  for (index_t h = 0; h < 4; ++h) {
    copy_into<double, 2>(shared.k.all()[0][h / 2], repeated.k.all()[0][h]);
    copy_into<double, 2>(shared.v.all()[0][h / 2], repeated.v.all()[0][h]);
  }
  solve(shared);
  solve(repeated);
  CHECK(same_bits<double, 4>(shared.out, repeated.out));
  CHECK(same_bits<double, 4>(shared.dq, repeated.dq));
  CHECK(same_bits<double, 2>(shared.dtable, repeated.dtable));
  tensor<double, 4> dk({1, 2, 42, 8});
  for (index_t h = 0; h < 4; ++h)
    for (index_t i = 0; i < 42; ++i)
      for (index_t d = 0; d < 8; ++d) dk(0, h / 2, i, d) += repeated.dk(0, h, i, d);
  CHECK(difference<4>(shared.dk, dk) < tolerance);
}
