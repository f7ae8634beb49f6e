// What every operator promises, of Luong's attention: excluded states unread, strides and workers without effect,
// scratch of the size that is told, messages.
#include "ops/local/luong.hpp"
#include "support/allocations.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <algorithm>
#include <limits>
#include <vector>

using namespace local_test;
using support::guarded;
using support::laid_out;
using support::layout;
using support::output_like;
using support::with_extents;

namespace {

const luong_settings every_score[] = {{.score = luong_score::dot, .padded = true},
                                      {.score = luong_score::mlp, .padded = true},
                                      {.score = luong_score::local, .reach = 10, .padded = true}};

constexpr luong_shape example{2, 60, 150, 12, 9};

}  // namespace

TEST_CASE("Luong's attention agrees with its definition on every distinct instruction set") {
  // The engine of score dot has tests of its own; here it is what the others add to it.
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    luong_problem<float> mlp({2, 30, 140, 9, 5}, {.score = luong_score::mlp}),
        local({2, 30, 140, 9, 5}, every_score[2]);
    solve_mlp_on<A>(mlp, {.lse = mlp.lse}, {});
    solve_local_on<A>(local);
    CHECK(error_of(mlp) <= 1);
    CHECK(error_of(local) <= 1);
  });
}

TEST_CASE("states that no step sees are not read, and have no gradient") {
  for (const luong_settings& how : every_score)
    for (const float poison : {quiet_nan<float>, std::numeric_limits<float>::infinity()}) {
      CAPTURE(static_cast<int>(how.score));
      luong_problem<float> clean(example, how), p = clean;
      // All positions of entry 1 near one state: others are seen by nobody.
      for (index_t t = 0; t < 60; ++t) clean.positions(1, t) = p.positions(1, t) = 40.5f;
      solve(clean);
      const auto seen = [&](index_t b, index_t s) {
        return b == 0 ? s < 100 : how.score != luong_score::local || (s >= 30 && s <= 50);
      };
      for (index_t b = 0; b < 2; ++b)
        for (index_t s = 0; s < 150; ++s) {
          if (b == 0 && how.score == luong_score::local) continue;
          for (index_t e = 0; e < p.h_s.extent(2); ++e) {
            if (!seen(b, s)) p.h_s(b, s, e) = poison;
            CHECK((clean.dh_s(b, s, e) != 0) == seen(b, s));
          }
          for (index_t a = 0; !seen(b, s) && a < 12; ++a) p.k(b, s, a) = poison;
        }
      solve(p);
      CHECK(same_result(p, clean));
    }
}

TEST_CASE("a sentence without states gives zeros") {
  for (const luong_settings& how : every_score) {
    luong_problem<float> p(example, how);
    p.lengths = {0, 150};
    solve(p);
    for (index_t t = 0; t < 60; ++t) {
      CHECK(p.lse(0, t) == -std::numeric_limits<float>::infinity());
      CHECK(p.out(0, t, 3) == 0);
      CHECK(p.dq(0, t, 3) == 0);
      if (how.score == luong_score::local) CHECK(p.dpositions(0, t) == 0);
    }
    for (index_t s = 0; s < 150; ++s) CHECK(p.dh_s(0, s, 2) == 0);
    CHECK(error_of(p) <= 1);
  }
}

TEST_CASE("strides change no bit of Luong's attention, and nothing outside its tensors is touched") {
  for (const luong_settings& how : every_score) {
    luong_problem<float> dense(example, how);
    solve(dense);
    const layout where = layout::padded;
    const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), h_s = laid_out(dense.h_s, where);
    const auto dout = laid_out(dense.dout, where);
    auto out = output_like(dense.out, where), dq = output_like(dense.dq, where), dk = output_like(dense.dk, where);
    auto dh_s = output_like(dense.dh_s, where);
    // One number a step, with others between.
    tensor<float, 3> wide({2, 60, 3});
    const view<float, 2> lse(&wide(0, 0, 0), {2, 60}, {180, 3}), dp(&wide(0, 0, 1), {2, 60}, {180, 3});
    const view<float, 2> positions(&wide(0, 0, 2), {2, 60}, {180, 3});
    support::copy_into<float, 2>(dense.positions, positions);
    tensor<float, 1> dv_a({12});
    if (how.score == luong_score::dot) {
      heed::luong_dot_forward(q.all(), h_s.all(), out.all(), {.lengths = dense.lengths, .lse = lse});
      heed::luong_dot_backward(q.all(), h_s.all(), out.all(), lse, dout.all(), dq.all(), dh_s.all(),
                               {.lengths = dense.lengths});
    } else if (how.score == luong_score::mlp) {
      heed::luong_mlp_forward(q.all(), k.all(), dense.v_a, h_s.all(), out.all(),
                              {.lengths = dense.lengths, .lse = lse});
      heed::luong_mlp_backward(q.all(), k.all(), dense.v_a, h_s.all(), out.all(), lse, dout.all(), dq.all(), dk.all(),
                               dv_a, dh_s.all(), {.lengths = dense.lengths});
      CHECK(same_bits<float, 3>(dk.all(), dense.dk));
      CHECK(same_bits<float, 1>(dv_a, dense.dv_a));
      CHECK(dk.intact());
    } else {
      heed::luong_local_forward(q.all(), h_s.all(), positions, out.all(), {.lengths = dense.lengths, .lse = lse});
      heed::luong_local_backward(q.all(), h_s.all(), positions, out.all(), lse, dout.all(), dq.all(), dh_s.all(), dp,
                                 {.lengths = dense.lengths});
      CHECK(same_bits<float, 2>(dp, dense.dpositions));
    }
    CHECK(same_bits<float, 2>(lse, dense.lse));
    CHECK(same_bits<float, 3>(out.all(), dense.out));
    CHECK(same_bits<float, 3>(dq.all(), dense.dq));
    CHECK(same_bits<float, 3>(dh_s.all(), dense.dh_s));
    CHECK(out.intact());
    CHECK(dq.intact());
    CHECK(dh_s.intact());
  }
}

TEST_CASE("Luong's attention is bit-equal in whatever order and by whatever worker tasks are run") {
  for (const luong_settings& how : every_score) {
    luong_problem<float> alone({1, 500, 300, 8, 8}, how);
    solve(alone, heed::serial());
    support::for_each_executor([&](heed::executor_ref where, const char* name) {
      CAPTURE(name, where.concurrency, static_cast<int>(how.score));
      luong_problem<float> p({1, 500, 300, 8, 8}, how);
      solve(p, where);
      CHECK(same_result(p, alone));
    });
  }
}

TEST_CASE("Luong's attention with scratch of the caller's allocates nothing and needs no more than it says") {
  luong_problem<float> p({1, 500, 300, 8, 8}, {.score = luong_score::mlp}), expected = p;
  solve(expected);
  const auto serial = heed::serial();
  const index_t sizes[] = {heed::luong_mlp_forward_scratch_bytes<float>(8, 8, serial),
                           heed::luong_mlp_backward_scratch_bytes<float>(p.q, p.k, p.h_s, serial),
                           heed::luong_dot_forward_scratch_bytes<float>(8, serial),
                           heed::luong_dot_backward_scratch_bytes<float>(p.q, p.k, serial),
                           heed::luong_local_forward_scratch_bytes<float>(8, serial),
                           heed::luong_local_backward_scratch_bytes<float>(p.q, p.k, serial)};
  std::vector<unsigned char> memory(static_cast<std::size_t>(*std::max_element(sizes, sizes + 6)), 0xff);
  const auto scratch = [&](int i) { return heed::scratch_view{memory.data(), sizes[i]}; };
  tensor<float, 3> out = p.out, dq = p.dq, dk = p.dk;
  const auto call = [&] {
    heed::luong_mlp_forward(p.q, p.k, p.v_a, p.h_s, p.out, {.lse = p.lse, .scratch = scratch(0), .executor = serial});
    heed::luong_mlp_backward(p.q, p.k, p.v_a, p.h_s, p.out, p.lse, p.dout, p.dq, p.dk, p.dv_a, p.dh_s,
                             {.scratch = scratch(1), .executor = serial});
    heed::luong_dot_forward(p.q, p.k, out, {.scratch = scratch(2), .executor = serial});
    heed::luong_dot_backward(p.q, p.k, out, p.lse, p.dout, dq, dk, {.scratch = scratch(3), .executor = serial});
    heed::luong_local_forward(p.q, p.k, p.positions, out, {.scratch = scratch(4), .executor = serial});
    heed::luong_local_backward(p.q, p.k, p.positions, out, p.lse, p.dout, dq, dk, p.dpositions,
                               {.scratch = scratch(5), .executor = serial});
  };
  CHECK(support::allocations_of(call) == 0);
  p.dpositions = expected.dpositions;
  CHECK(same_result(p, expected));
  const auto short_of = [&](int i) { return heed::scratch_view{memory.data(), sizes[i] - 1}; };
  support::check_refusal("luong_mlp_backward", {"options.scratch", "at least"}, [&] {
    heed::luong_mlp_backward(p.q, p.k, p.v_a, p.h_s, p.out, p.lse, p.dout, p.dq, p.dk, p.dv_a, p.dh_s,
                             {.scratch = short_of(1), .executor = serial});
  });
  support::check_refusal("luong_local_backward", {"options.scratch", "at least"}, [&] {
    heed::luong_local_backward(p.q, p.k, p.positions, out, p.lse, p.dout, dq, dk, p.dpositions,
                               {.scratch = short_of(5), .executor = serial});
  });
}

TEST_CASE("Luong's attention refuses what it cannot work on, before any write") {
  luong_problem<float> p({2, 10, 20, 8, 6}, {.score = luong_score::mlp});
  const view<const float, 3> q = p.q, k = p.k, h_s = p.h_s, dout = p.dout;
  const view<float, 3> out = p.out, dq = p.dq, dk = p.dk, dh_s = p.dh_s;
  const view<const float, 1> v_a = p.v_a;
  const std::vector<index_t> too_long{20, 21};
  tensor<float, 3> context({2, 10, 8});
  support::check_refusal("luong_dot_forward", {"h_s.extent(2)", "8 (as h_t)", "got 6"},
                         [&] { heed::luong_dot_forward(q, h_s, out); });
  support::check_refusal("luong_dot_forward", {"options.lengths", "0 to M = 20", "got 21"},
                         [&] { heed::luong_dot_forward(q, k, context, {.lengths = too_long}); });
  support::check_refusal("luong_dot_forward", {"options.reach", "at least 0", "got -1"},
                         [&] { heed::luong_dot_forward(q, k, context, {.reach = -1}); });
  support::check_refusal("luong_dot_forward", {"options.first_step", "within +-2^29"},
                         [&] { heed::luong_dot_forward(q, k, context, {.first_step = index_t(1) << 30}); });
  support::check_refusal("luong_dot_forward", {"out: expected no overlap"},
                         [&] { heed::luong_dot_forward(q, k, view<float, 3>(p.q)); });
  support::check_refusal("luong_dot_backward", {"lse.extent(0)", "2 (B, as h_t)"},
                         [&] { heed::luong_dot_backward(q, k, context, {}, context, dq, dk); });
  support::check_refusal("luong_dot_backward", {"dh_s.extent(1)", "20 (as h_s)"}, [&] {
    heed::luong_dot_backward(q, k, context, p.lse, context, dq, with_extents(dk, {2, 19, 8}));
  });
  support::check_refusal("luong_mlp_forward", {"v_a.extent(0)", "8 (A, as q)"},
                         [&] { heed::luong_mlp_forward(q, k, with_extents(v_a, {7}), h_s, out); });
  support::check_refusal("luong_mlp_forward", {"h_s.extent(1)", "20 (S, as k)"},
                         [&] { heed::luong_mlp_forward(q, k, v_a, with_extents(h_s, {2, 19, 6}), out); });
  support::check_refusal("luong_mlp_forward", {"out.extent(2)", "6 (as h_s)"},
                         [&] { heed::luong_mlp_forward(q, k, v_a, h_s, with_extents(out, {2, 10, 5})); });
  support::check_refusal("luong_mlp_backward", {"dv_a.extent(0)", "8 (A, as q)"},
                         [&] { heed::luong_mlp_backward(q, k, v_a, h_s, p.out, p.lse, dout, dq, dk, {}, dh_s); });
  support::check_refusal("luong_mlp_backward", {"dk: expected no overlap"}, [&] {
    heed::luong_mlp_backward(q, k, v_a, h_s, p.out, p.lse, dout, dq, view<float, 3>(p.k), p.dv_a, dh_s);
  });
  support::check_refusal("luong_local_forward", {"positions.extent(1)", "10 (N, as h_t)"},
                         [&] { heed::luong_local_forward(q, k, with_extents(p.positions.all(), {2, 9}), context); });
  support::check_refusal("luong_local_forward", {"options.reach (D)", "at least 1", "got 0"},
                         [&] { heed::luong_local_forward(q, k, p.positions, context, {.reach = 0}); });
  support::check_refusal("luong_local_forward", {"options.sigma", "a finite number above 0", "got 0"},
                         [&] { heed::luong_local_forward(q, k, p.positions, context, {.sigma = 0.0}); });
  support::check_refusal("luong_local_backward", {"dpositions: expected no overlap"}, [&] {
    heed::luong_local_backward(q, k, p.positions, context, p.lse, context, dq, dk, view<float, 2>(p.positions));
  });
  const auto untouched = [](const auto& t) {
    return std::all_of(t.begin(), t.end(), [](float y) { return std::isnan(y); });
  };
  CHECK(untouched(p.out));
  CHECK(untouched(p.dq));
  CHECK(untouched(p.dk));
  CHECK(untouched(p.dh_s));
  CHECK(untouched(p.dv_a));
  CHECK(untouched(p.dpositions));
}
