// What every operator promises, of window attention: what is excluded is unread, strides do not matter, nor do workers,
// and scratch is what is said.
#include "ops/local/swin.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <limits>
#include <vector>

using namespace local_test;
using support::guarded;
using support::laid_out;
using support::layout;
using support::output_like;

namespace {

const swin_shape shapes[] = {{2, 4, 2, {14, 15}, {7, 7}, {3, 3}, true, false, 12, 9},
                             {1, 2, 1, {9, 10}, {4, 4}, {2, 3}, true, true, 8, 8},
                             {3, 2, 2, {4, 40}, {2, 2}, {0, 0}, false, false, 5, 16}};

/// Axes of 10 tokens in windows of 5 with a shift of 2: whether two see each other.
bool sees(index_t a, index_t b) {
  const auto window = [](index_t t) { return (t + 8) % 10 / 5; };
  return window(a) == window(b) && (a < 2) == (b < 2);
}

}  // namespace

TEMPLATE_TEST_CASE("tokens that a query does not see have no part in its row, nor it in their gradients", "", float,
                   heed::bfloat16) {
  using S = TestType;
  // Values that fill vectors, and not: the 25th query of a window may go another way than the others.
  const index_t value_features = GENERATE(8, 9);
  const swin_shape s{1, 2, 1, {10, 10}, {5, 5}, {2, 2}, true, false, 8, value_features};
  swin_problem<S> clean(s);
  solve(clean);
  for (const double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    for (const index_t bad : {0, 34, 99, 91}) {
      swin_problem<S> p(s);
      for (index_t d = 0; d < s.D; ++d) p.k(0, 0, bad, d) = p.q(0, 1, bad, d) = S(poison);
      for (index_t e = 0; e < s.E; ++e) p.v(0, 0, bad, e) = p.dout(0, 1, bad, e) = S(poison);
      solve(p);
      CAPTURE(poison, bad);
      for (index_t i = 0; i < s.N(); ++i) {
        const bool apart = !(sees(i / 10, bad / 10) && sees(i % 10, bad % 10));
        for (index_t h = 0; h < s.H && apart; ++h) {
          CHECK(same_bits<S, 1>(p.out.all()[0][h][i], clean.out.all()[0][h][i]));
          CHECK(same_bits<S, 1>(p.dq.all()[0][h][i], clean.dq.all()[0][h][i]));
        }
        if (apart) {
          CHECK(same_bits<S, 1>(p.dk.all()[0][0][i], clean.dk.all()[0][0][i]));
          CHECK(same_bits<S, 1>(p.dv.all()[0][0][i], clean.dv.all()[0][0][i]));
        } else {
          CHECK(std::isnan(static_cast<double>(p.dv(0, 0, i, 0))));
        }
      }
    }
}

TEMPLATE_TEST_CASE("strides change no bit of window attention, and nothing outside its tensors is touched", "", float,
                   heed::bfloat16) {
  using S = TestType;
  for (const swin_shape& s : shapes)
    for (const layout where : support::layouts) {
      swin_problem<S> dense(s);
      solve(dense);
      const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
      const auto dout = laid_out(dense.dout, where);
      auto out = output_like(dense.out, where), dq = output_like(dense.dq, where), dk = output_like(dense.dk, where),
           dv = output_like(dense.dv, where);
      auto lse = output_like(dense.lse, where);
      auto forward = forward_options(dense);
      auto backward = backward_options(dense);
      // A table as other frameworks keep it, [H][offset].
      tensor<S, 2> table({s.H, dense.table.extent(0)}), dtable({s.H, dense.table.extent(0)});
      if (s.table) {
        support::copy_into<S, 2>(dense.table.all().swap_axes(0, 1), table.all());
        forward.table = backward.table = table.all().swap_axes(0, 1);
        backward.dtable = dtable.all().swap_axes(0, 1);
      }
      forward.lse = lse.all();
      heed::swin_forward(q.all(), k.all(), v.all(), out.all(), forward);
      heed::swin_backward(q.all(), k.all(), v.all(), out.all(), lse.all(), dout.all(), dq.all(), dk.all(), dv.all(),
                          backward);
      CAPTURE(s.D, static_cast<int>(where));
      const auto check = [](auto& got, const auto& expected) {
        using T = typename std::remove_cvref_t<decltype(expected)>::element_type;
        CHECK(same_bits<T, std::remove_cvref_t<decltype(expected)>::rank>(got.all(), expected));
        CHECK(got.intact());
      };
      check(out, dense.out);
      check(lse, dense.lse);
      check(dq, dense.dq);
      check(dk, dense.dk);
      check(dv, dense.dv);
      if (s.table) CHECK(same_bits<S, 2>(dtable.all().swap_axes(0, 1), dense.dtable));
    }
}

TEST_CASE("window attention is bit-equal in whatever order and by whatever worker tasks are run") {
  for (const swin_shape& s : shapes) {
    swin_problem<float> alone(s);
    solve(alone, heed::serial());
    const auto check = [&](heed::executor_ref where, const char* name) {
      swin_problem<float> p(s);
      solve(p, where);
      CAPTURE(name, where.concurrency, s.D);
      CHECK(same_result(p, alone));
    };
    support::for_each_executor(check);
#if defined(_OPENMP)
    for (int threads = 1; threads <= 3; ++threads) check(heed::openmp(threads), "openmp");
#endif
  }
}

TEST_CASE("calls of window attention need the scratch they say, and no more, and allocate nothing") {
  using S = heed::bfloat16;
  for (const swin_shape& s : shapes) {
    swin_problem<S> alone(s), p(s);
    solve(alone, heed::serial());
    auto forward = forward_options(p, heed::serial());
    auto backward = backward_options(p, heed::serial());
    const index_t forward_bytes = heed::swin_forward_scratch_bytes<S>(p.q, p.k, p.v, forward);
    const index_t backward_bytes = heed::swin_backward_scratch_bytes<S>(p.q, p.k, p.v, backward);
    std::vector<unsigned char> memory(static_cast<std::size_t>(std::max(forward_bytes, backward_bytes) + 65), 0xff);
    const auto run = [&](index_t bytes, auto& options, const auto& call) {
      std::fill(memory.begin(), memory.end(), 0xff);
      options.scratch = {memory.data() + 1, bytes - 1};
      CHECK_THROWS_AS(call(), heed::invalid_argument);
      options.scratch = {memory.data() + 1, bytes};
      heed::release_scratch();
      CHECK(support::allocations_of(call) == 0);
      CHECK(memory[0] == 0xff);
      CHECK(memory[static_cast<std::size_t>(bytes + 1)] == 0xff);
    };
    run(forward_bytes, forward, [&] { heed::swin_forward(p.q, p.k, p.v, p.out, forward); });
    run(backward_bytes, backward,
        [&] { heed::swin_backward(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, backward); });
    CHECK(same_result(p, alone));
  }
}
