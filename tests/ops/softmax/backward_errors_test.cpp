#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace softmax_test;
using support::with_extents;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({1, 4, 2, 10, 20, 8, 6}) {
    bias = tensor<float, 4>({1, 1, 10, 20});
    dbias = tensor<float, 4>::full({1, 1, 10, 20}, support::quiet_nan<float>);
    sink = tensor<float, 1>({4});
    options.bias = bias;
    options.dbias = dbias;
    options.sink = sink;
    options.dlse = p.dlse;
    options.dsink = p.dsink;
    q = p.q, k = p.k, v = p.v, out = p.out, dout = p.dout;
    lse = p.lse;
    dq = p.dq, dk = p.dk, dv = p.dv;
  }

  backward_problem<float> p;
  tensor<float, 4> bias, dbias;
  tensor<float, 1> sink;
  view<const float, 4> q, k, v, out, dout;
  view<const float, 3> lse;
  view<float, 4> dq, dk, dv;
  softmax_backward_options<float> options;
};

/// The call must throw, say all of `parts` and that it is softmax_backward, and write nothing.
void refuses(const std::function<void(call&)>& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("softmax_backward", parts, [&] {
    heed::softmax_backward(c.q, c.k, c.v, c.out, c.lse, c.dout, c.dq, c.dk, c.dv, c.options);
  });
  for (const tensor<float, 4>* t : {&c.p.dq, &c.p.dk, &c.p.dv, &c.dbias})
    CHECK(std::all_of(t->begin(), t->end(), [](float x) { return std::isnan(x); }));
  CHECK(std::isnan(c.p.dsink(0)));
}

}  // namespace

TEST_CASE("a legal call is not refused") {
  call c;
  heed::softmax_forward(c.q, c.k, c.v, c.p.out, {.bias = c.bias, .sink = c.sink, .lse = c.p.lse});
  CHECK_NOTHROW(heed::softmax_backward(c.q, c.k, c.v, c.out, c.lse, c.dout, c.dq, c.dk, c.dv, c.options));
  CHECK(all_finite(c.p.dq));
  CHECK(all_finite(c.dbias));
}

TEST_CASE("softmax_backward refuses extents that do not fit") {
  refuses([](call& c) { c.out = with_extents(c.out, {1, 4, 9, 6}); }, {"out.extent(2)", "10 (N, as q)", "got 9"});
  refuses([](call& c) { c.lse = with_extents(c.lse, {1, 2, 10}); }, {"lse.extent(1)", "4 (as q)", "got 2"});
  refuses([](call& c) { c.dout = with_extents(c.dout, {1, 4, 10, 5}); }, {"dout.extent(3)", "6 (E, as out)", "got 5"});
  refuses([](call& c) { c.dq = with_extents(c.dq, {1, 4, 10, 7}); }, {"dq.extent(3)", "8 (D, as q)", "got 7"});
  refuses([](call& c) { c.dk = with_extents(c.dk, {1, 2, 19, 8}); }, {"dk.extent(2)", "20 (as k)", "got 19"});
  refuses([](call& c) { c.dv = with_extents(c.dv, {1, 1, 20, 6}); }, {"dv.extent(1)", "2 (as v)", "got 1"});
  refuses([](call& c) { c.options.dlse = with_extents(c.options.dlse, {1, 4, 9}); }, {"options.dlse.extent(2)"});
  refuses([](call& c) { c.options.dsink = c.options.dsink.slice(0, 0, 3); }, {"options.dsink.extent(0)", "got 3"});
  refuses([](call& c) { c.options.dbias = with_extents(c.options.dbias, {1, 1, 1, 20}); },
          {"options.dbias.extent(2)", "10 (as options.bias)"});
  refuses([](call& c) { c.k = with_extents(c.k, {1, 3, 20, 8}); }, {"k.extent(1) (G)", "a divisor of H = 4"});
}

TEST_CASE("softmax_backward refuses what is missing, or given without what it belongs to") {
  refuses([](call& c) { c.lse = view<const float, 3>(nullptr, {1, 4, 10}); }, {"lse", "data", "a null pointer"});
  refuses([](call& c) { c.lse = {}; }, {"lse.extent(0)"});
  refuses([](call& c) { c.options.sink = {}; }, {"options.dsink", "none without a sink"});
  refuses([](call& c) { c.options.bias = {}; }, {"options.dbias", "none without a bias"});
}

TEST_CASE("softmax_backward refuses options out of range") {
  refuses([](call& c) { c.options.scale = infinity; }, {"options.scale", "a finite number"});
  refuses([](call& c) { c.options.softcap = -1; }, {"options.softcap"});
  refuses([](call& c) { c.sink(2) = infinity; }, {"options.sink", "numbers below +inf"});
  refuses([](call& c) { c.options.window_left = -2; }, {"options.window_left"});
  refuses([](call& c) { c.options.q_offset = index_t(1) << 40; }, {"options.q_offset"});
  static constexpr std::array<std::int32_t, 3> cu_q{0, 4, 10}, cu_k{0, 9, 20};
  refuses(
      [](call& c) {
        c.options.cu_seqlens_q = cu_q;
        c.options.cu_seqlens_k = cu_k;
      },
      {"options.bias", "none in a packed batch"});
  refuses([](call& c) { c.options.cu_seqlens_q = cu_q; }, {"options.cu_seqlens_k", "offsets"});
}

TEST_CASE("softmax_backward refuses outputs that overlap an input, another output or themselves") {
  const auto writable = [](const auto& t, const index_t(&extents)[4]) {
    return view<float, 4>(const_cast<float*>(t.data()), extents);
  };
  refuses([&](call& c) { c.dq = writable(c.q, {1, 4, 10, 8}); }, {"dq: expected no overlap"});
  refuses([&](call& c) { c.dk = writable(c.k, {1, 2, 20, 8}); }, {"dk: expected no overlap"});
  refuses([&](call& c) { c.dv = writable(c.dout, {1, 2, 20, 6}); }, {"dv: expected no overlap"});
  refuses([&](call& c) { c.dk = writable(c.dq, {1, 2, 20, 8}); }, {"dk: expected no overlap"});
  refuses([&](call& c) { c.dv = writable(c.dk, {1, 2, 20, 6}); }, {"dv: expected no overlap"});
  refuses(
      [&](call& c) {
        c.dbias = tensor<float, 4>::full({1, 1, 10, 20}, support::quiet_nan<float>);
        c.options.dbias = writable(c.bias, {1, 1, 10, 20});
      },
      {"options.dbias: expected no overlap"});
  refuses([&](call& c) { c.options.dsink = view<float, 1>(c.sink.data(), {4}); },
          {"options.dsink: expected no overlap"});
  refuses([&](call& c) { c.options.dsink = view<float, 1>(c.dq.data(), {4}); }, {"options.dsink: expected no overlap"});
  refuses([&](call& c) { c.dv = view<float, 4>(c.dv.data(), {1, 2, 20, 6}, {0, 0, 6, 1}); },
          {"dv: expected no broadcast"});
}

TEMPLATE_TEST_CASE("gradients may lie anywhere: strides change no bit, and nothing beside them is written", "", float,
                   heed::bfloat16) {
  using S = TestType;
  using support::guarded;
  using support::layout;
  for (const shape& s : {shape{2, 4, 2, 19, 37, 24, 16}, shape{1, 3, 1, 300, 130, 33, 3}}) {
    backward_problem<S> dense(s);
    solve<S>(dense, {.dlse = dense.dlse, .window_left = 90, .window_right = 3});
    const auto laid_out = [&](const tensor<S, 4>& t, layout where) {
      guarded<S, 4> other({t.extent(0), t.extent(1), t.extent(2), t.extent(3)}, where, S(0), support::quiet_nan<S>);
      for (index_t b = 0; b < t.extent(0); ++b)
        for (index_t h = 0; h < t.extent(1); ++h)
          for (index_t i = 0; i < t.extent(2); ++i)
            for (index_t d = 0; d < t.extent(3); ++d) other.all()(b, h, i, d) = t(b, h, i, d);
      return other;
    };
    for (const layout where : support::layouts) {
      const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
      const auto out = laid_out(dense.out, where), dout = laid_out(dense.dout, where);
      guarded<S, 4> dq({s.B, s.H, s.N, s.D}, where, support::quiet_nan<S>, S(-777));
      guarded<S, 4> dk({s.B, s.G, s.M, s.D}, where, support::quiet_nan<S>, S(-777));
      guarded<S, 4> dv({s.B, s.G, s.M, s.E}, where, support::quiet_nan<S>, S(-777));
      heed::softmax_backward(q.all(), k.all(), v.all(), out.all(), dense.lse, dout.all(), dq.all(), dk.all(), dv.all(),
                             {.dlse = dense.dlse, .window_left = 90, .window_right = 3});
      CAPTURE(s.N, static_cast<int>(where), heed::dtype_name<S>);
      CHECK(same_bits<S, 4>(dq.all(), dense.dq));
      CHECK(same_bits<S, 4>(dk.all(), dense.dk));
      CHECK(same_bits<S, 4>(dv.all(), dense.dv));
      CHECK(dq.intact());
      CHECK(dk.intact());
      CHECK(dv.intact());
    }
  }
}
