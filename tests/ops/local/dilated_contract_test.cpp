// What every operator promises, of dilated windows: excluded keys unread, strides and workers without effect, scratch
// of the size that is told, messages.
#include "ops/local/dilated.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

using namespace local_test;
using support::laid_out;
using support::layout;
using support::output_like;
using support::quiet_nan;
using support::with_extents;

namespace {

constexpr shape example{2, 4, 2, 60, 90, 12, 9};
const dilated_backward_options<float> options{.step = 4, .reach = 30};

}  // namespace

TEST_CASE("keys and values that no query sees are not read, and have no gradient") {
  for (const float poison : {quiet_nan<float>, std::numeric_limits<float>::infinity()}) {
    backward_problem<float> clean({1, 2, 1, 2, 90, 12, 9}), p = clean;
    solve_dilated<float>(clean, options, heed::causal{});
    // Queries stand at 88 and 89: classes 0 and 1.
    for (index_t j = 0; j < 90; ++j) {
      const bool seen = (j % 4 == 0 && j >= 58) || (j % 4 == 1 && j >= 59);
      for (index_t d = 0; d < 12; ++d)
        if (!seen) p.k(0, 0, j, d) = poison;
      for (index_t e = 0; e < 9; ++e) {
        if (!seen) p.v(0, 0, j, e) = poison;
        CHECK((clean.dv(0, 0, j, e) != 0) == seen);
      }
    }
    solve_dilated<float>(p, options, heed::causal{});
    CHECK(softmax_test::same_result<float>(p, clean));
    CHECK(support::same_bits<float, 4>(p.dq, clean.dq));
    CHECK(support::same_bits<float, 4>(p.dk, clean.dk));
    CHECK(support::same_bits<float, 4>(p.dv, clean.dv));
  }
}

TEST_CASE("strides change no bit of a dilated window, and nothing outside its tensors is touched") {
  for (const layout where : support::layouts) {
    backward_problem<float> dense(example);
    solve_dilated<float>(dense, options);
    const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
    const auto dout = laid_out(dense.dout, where);
    auto out = output_like(dense.out, where), dq = output_like(dense.dq, where), dk = output_like(dense.dk, where);
    auto dv = output_like(dense.dv, where);
    auto lse = output_like(dense.lse, where);
    heed::dilated_forward(q.all(), k.all(), v.all(), out.all(), {.step = 4, .reach = 30, .lse = lse.all()});
    heed::dilated_backward(q.all(), k.all(), v.all(), out.all(), lse.all(), dout.all(), dq.all(), dk.all(), dv.all(),
                           options);
    CHECK(support::same_bits<float, 3>(lse.all(), dense.lse));
    CHECK(lse.intact());
    const auto check = [](auto& got, const tensor<float, 4>& expected) {
      CHECK(support::same_bits<float, 4>(got.all(), expected));
      CHECK(got.intact());
    };
    check(out, dense.out);
    check(dq, dense.dq);
    check(dk, dense.dk);
    check(dv, dense.dv);
  }
}

TEST_CASE("a dilated window is bit-equal in whatever order and by whatever worker tasks are run") {
  for (const index_t step : {3, 11}) {
    dilated_backward_options<float> o{.step = step, .reach = 400, .executor = heed::serial()};
    backward_problem<float> alone({1, 2, 1, 500, 500, 8, 8});
    solve_dilated<float>(alone, o);
    const auto check = [&](heed::executor_ref where, const char* name) {
      CAPTURE(name, where.concurrency, step);
      backward_problem<float> p({1, 2, 1, 500, 500, 8, 8});
      o.executor = where;
      solve_dilated<float>(p, o);
      CHECK(same_passes(p, alone));
    };
    support::for_each_executor(check);
  }
}

TEST_CASE("a dilated window with scratch of the caller's allocates nothing and needs no more than it says") {
  using heed::float16;
  for (const index_t step : {4, 20}) {
    backward_problem<float16> p(example), expected = p;
    dilated_backward_options<float16> backward{.step = step, .reach = 30, .executor = heed::serial()};
    solve_dilated(expected, backward);
    heed::dilated_options<float16> forward{.step = step, .reach = 30, .lse = p.lse, .executor = heed::serial()};
    const index_t first = heed::dilated_forward_scratch_bytes<float16>(p.q, p.k, p.v, forward);
    const index_t second = heed::dilated_backward_scratch_bytes<float16>(p.q, p.k, p.v, backward);
    std::vector<unsigned char> memory(static_cast<std::size_t>(std::max(first, second)), 0xff);
    forward.scratch = {memory.data(), first};
    backward.scratch = {memory.data(), second};
    const auto call = [&] {
      heed::dilated_forward(p.q, p.k, p.v, p.out, forward);
      heed::dilated_backward(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, backward);
    };
    CHECK(support::allocations_of(call) == 0);
    CHECK(same_passes(p, expected));
    forward.scratch.bytes -= 1;
    backward.scratch.bytes -= 1;
    support::check_refusal("dilated_forward", {"options.scratch", "at least"},
                           [&] { heed::dilated_forward(p.q, p.k, p.v, p.out, forward); });
    support::check_refusal("dilated_backward", {"options.scratch", "at least"}, [&] {
      heed::dilated_backward(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, backward);
    });
  }
}

TEST_CASE("dilated windows refuse what they cannot work on, before any write") {
  struct call {
    call() : p(example) {
      q = p.q, k = p.k, v = p.v, out = p.out, dq = p.dq, dk = p.dk, dv = p.dv, lse = p.lse;
      options = {.step = 4, .reach = 30}, backward = {.step = 4, .reach = 30};
    }
    backward_problem<float> p;
    view<const float, 4> q, k, v;
    view<const float, 3> lse;
    view<float, 4> out, dq, dk, dv;
    heed::dilated_options<float> options;
    dilated_backward_options<float> backward;
  };
  using spoiler = std::function<void(call&)>;
  const auto untouched = [](const tensor<float, 4>& t) {
    return std::all_of(t.begin(), t.end(), [](float x) { return std::isnan(x); });
  };
  const auto forward_refuses = [&](const spoiler& spoil, const std::vector<std::string>& parts) {
    call c;
    spoil(c);
    support::check_refusal("dilated_forward", parts, [&] { heed::dilated_forward(c.q, c.k, c.v, c.out, c.options); });
    CHECK(untouched(c.p.out));
  };
  const auto backward_refuses = [&](const spoiler& spoil, const std::vector<std::string>& parts) {
    call c;
    spoil(c);
    support::check_refusal("dilated_backward", parts, [&] {
      heed::dilated_backward(c.q, c.k, c.v, c.p.out, c.lse, c.p.dout, c.dq, c.dk, c.dv, c.backward);
    });
    CHECK(untouched(c.p.dq));
    CHECK(untouched(c.p.dk));
    CHECK(untouched(c.p.dv));
  };
  forward_refuses([](call& c) { c.options.step = 0; }, {"options.step", "1 to 2^20", "got 0"});
  backward_refuses([](call& c) { c.backward.step = (1 << 20) + 1; }, {"options.step", "1 to 2^20"});
  forward_refuses([](call& c) { c.options.reach = -2; }, {"options.reach", "at least -1", "got -2"});
  backward_refuses([](call& c) { c.backward.reach = -2; }, {"options.reach", "at least -1"});
  forward_refuses([](call& c) { c.k = with_extents(c.k, {2, 3, 60, 12}); }, {"k.extent(1) (G)", "a divisor of H = 4"});
  forward_refuses([](call& c) { c.v = with_extents(c.v, {2, 2, 89, 9}); }, {"v.extent(2)", "90 (M, as k)"});
  forward_refuses([](call& c) { c.options.q_offset = index_t(1) << 31; }, {"options.q_offset", "within +-2^30"});
  forward_refuses([](call& c) { c.options.lse = with_extents(c.p.lse.all(), {2, 4, 59}); }, {"options.lse.extent(2)"});
  forward_refuses([](call& c) { c.q = {c.out.data(), {2, 4, 60, 12}}; }, {"out: expected no overlap"});
  backward_refuses([](call& c) { c.lse = {}; }, {"lse.extent(0)", "as q"});
  backward_refuses([](call& c) { c.dk = with_extents(c.dk, {2, 2, 89, 12}); }, {"dk.extent(2)", "90 (as k)"});
  backward_refuses([](call& c) { c.dv = {c.dk.data(), {2, 2, 90, 9}}; }, {"dv: expected no overlap"});
  backward_refuses([](call& c) { c.backward.dsink = c.p.dsink; }, {"options.dsink", "none without a sink"});
}
