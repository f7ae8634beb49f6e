// What every operator promises, of neighborhood attention: what a query does not see is unread, strides do not matter,
// nor do workers; no call with scratch allocates.
#include "ops/local/neighborhood.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace neighborhood_test;
using support::guarded;
using support::laid_out;
using support::layout;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

shape usual() { return {{{18, 5, 1, 2}, {17, 4}}, 2, 4, 2, 12, 17, 3, true}; }

template <class S>
bool is_nan(S x) {
  return std::isnan(static_cast<double>(x));
}

}  // namespace

TEST_CASE("keys and values that a query does not see never reach its result or its gradient") {
  // On strided axes neighbors in one vector of queries see different keys.
  const shape s{{{14, 4, 3}, {15, 5, 2, 2}}, 1, 2, 1, 8, 8, 1};
  for (const float poison : {support::quiet_nan<float>, infinity, -infinity})
    for (const index_t key : {0, 37, 121, 209}) {
      problem<float> clean(s), p(s);
      for (index_t d = 0; d < 8; ++d) {
        p.k(0, 0, key, d) = poison;
        p.v(0, 0, key, d) = poison;
      }
      solve(clean);
      solve(p);
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < p.pairs.tokens(); ++i) {
          CAPTURE(poison, key, h, i);
          if (p.pairs.visible(i, key)) continue;
          CHECK(p.lse(0, h, i) == Catch::Approx(clean.lse(0, h, i)).margin(1e-5));
          for (index_t d = 0; d < 8; ++d) {
            CHECK(p.out(0, h, i, d) == Catch::Approx(clean.out(0, h, i, d)).margin(1e-5));
            CHECK(p.dq(0, h, i, d) == Catch::Approx(clean.dq(0, h, i, d)).margin(1e-5));
          }
        }
    }
}

TEST_CASE("queries and upstream gradients do not reach keys that they do not see") {
  const shape s{{{14, 4, 3}, {15, 5, 2, 2}}, 1, 1, 1, 8, 8};
  problem<float> clean(s);
  solve(clean);
  for (const index_t query : {0, 37, 121, 209}) {
    problem<float> p(s);
    for (index_t d = 0; d < 8; ++d) p.q(0, 0, query, d) = p.dout(0, 0, query, d) = support::quiet_nan<float>;
    solve(p);
    for (index_t j = 0; j < p.pairs.tokens(); ++j)
      for (index_t d = 0; d < 8; ++d) {
        CAPTURE(query, j, d);
        CHECK(is_nan(p.dk(0, 0, j, d)) == p.pairs.visible(query, j));
        CHECK(is_nan(p.dv(0, 0, j, d)) == p.pairs.visible(query, j));
        if (p.pairs.visible(query, j)) continue;
        CHECK(p.dk(0, 0, j, d) == Catch::Approx(clean.dk(0, 0, j, d)).margin(1e-5));
        CHECK(p.dv(0, 0, j, d) == Catch::Approx(clean.dv(0, 0, j, d)).margin(1e-5));
      }
  }
}

TEMPLATE_TEST_CASE("strides change no bit of neighborhood attention, and nothing outside its tensors is touched", "",
                   float, heed::bfloat16) {
  using S = TestType;
  // The second is read in place where its type allows.
  for (const shape& s : {usual(), shape{{{140, 9, 1, 2}}, 2, 2, 1, 12, 17, 3, true}}) {
    problem<S> dense(s);
    solve(dense);
    const std::span<const neighborhood_axis> axes(s.axes);
    for (const layout where : support::layouts) {
      CAPTURE(static_cast<int>(where));
      const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
      const auto dout = laid_out(dense.dout, where), kx = laid_out(dense.k_extra, where);
      const auto vx = laid_out(dense.v_extra, where);
      auto out = support::output_like(dense.out, where), dq = support::output_like(dense.q, where);
      auto dk = support::output_like(dense.k, where), dv = support::output_like(dense.v, where);
      auto dkx = support::output_like(dense.k_extra, where), dvx = support::output_like(dense.v_extra, where);
      auto lse = support::output_like(dense.lse, where);
      auto forward = dense.forward_options();
      forward.lse = lse.all();
      forward.k_extra = kx.all();
      forward.v_extra = vx.all();
      heed::neighborhood_forward(q.all(), k.all(), v.all(), out.all(), axes, forward);
      auto backward = dense.backward_options();
      backward.k_extra = kx.all();
      backward.v_extra = vx.all();
      backward.dk_extra = dkx.all();
      backward.dv_extra = dvx.all();
      const tensor<S, 2> table = dense.dbias;
      heed::neighborhood_backward(q.all(), k.all(), v.all(), out.all(), lse.all(), dout.all(), dq.all(), dk.all(),
                                  dv.all(), axes, backward);
      CHECK(same_bits<S, 2>(table, dense.dbias));
      CHECK(same_bits<typename problem<S>::T, 3>(lse.all(), dense.lse));
      CHECK(lse.intact());
      const auto check = [](guarded<S, 4>& got, const tensor<S, 4>& expected) {
        CHECK(same_bits<S, 4>(got.all(), expected));
        CHECK(got.intact());
      };
      check(out, dense.out);
      check(dq, dense.dq);
      check(dk, dense.dk);
      check(dv, dense.dv);
      check(dkx, dense.dk_extra);
      check(dvx, dense.dv_extra);
    }
  }
}

TEST_CASE("neighborhood attention is bit-equal in whatever order and by whatever worker tasks are run") {
  // Many tiles of one head, and many heads of few.
  for (const shape& s : {usual(), shape{{{40, 5}, {30, 6}}, 1, 1, 1, 8, 8, 2, true}, shape{{{700, 20}}, 1, 2, 1, 8, 8},
                         shape{{{20, 6, 2, 3}}, 5, 6, 3, 8, 8, 1}}) {
    problem<float> alone(s);
    solve(alone, heed::serial());
    support::for_each_executor([&](heed::executor_ref where, const char* name) {
      CAPTURE(name, name_of(s));
      problem<float> p(s);
      solve(p, where);
      CHECK(same_results(p, alone));
    });
  }
}

TEMPLATE_TEST_CASE("neighborhood attention needs the scratch that it asks for, of any contents, and allocates nothing",
                   "", float, heed::bfloat16) {
  using S = TestType;
  for (const shape& s : {usual(), shape{{{60, 9}}, 1, 2, 1, 7, 9}, shape{{{20, 5, 1, 4}}, 3, 2, 2, 7, 9}}) {
    const std::span<const neighborhood_axis> axes(s.axes);
    problem<S> expected(s), p(s);
    solve(expected);
    auto forward = p.forward_options();
    auto backward = p.backward_options();
    forward.executor = backward.executor = heed::serial();
    const index_t a = heed::neighborhood_forward_scratch_bytes<S>(s.D, s.E, forward);
    const index_t b = heed::neighborhood_backward_scratch_bytes<S>(p.q, p.k, p.v, axes, backward);
    std::vector<float> memory(static_cast<std::size_t>(std::max(a, b) / index_t(sizeof(float)) + 16),
                              support::quiet_nan<float>);
    for (const index_t offset : {0, 4, 60}) {
      char* const data = reinterpret_cast<char*>(memory.data()) + offset;
      forward.scratch = {data, a};
      backward.scratch = {data, b};
      p.clear();
      // Outputs are new tensors.
      const auto views = p.forward_options();
      const auto outputs = p.backward_options();
      forward.lse = views.lse;
      backward.dbias = outputs.dbias;
      backward.dk_extra = outputs.dk_extra;
      backward.dv_extra = outputs.dv_extra;
      CHECK(support::allocations_of([&] {
              heed::neighborhood_forward(p.q, p.k, p.v, p.out, axes, forward);
              heed::neighborhood_backward(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, axes, backward);
            }) == 0);
      CHECK(same_results(p, expected));
    }
  }
}
