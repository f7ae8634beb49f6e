#include "ops/linear/gated.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

using namespace linear_test;
using support::guarded;
using support::laid_out;
using support::layout;

TEMPLATE_TEST_CASE("strides and padding change no bit, and nothing outside the tensors is read or written", "", float,
                   heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  // Values of the last one fall on each other in a cache, or not, as they are laid out.
  for (const shape& s :
       {shape{2, 4, 2, 70, 33, 20}, shape{1, 2, 2, 17, 1, 3}, shape{1, 3, 1, 64, 16, 64}, shape{1, 2, 2, 70, 8, 128}})
    for (const gates kind : gate_kinds) {
      problem<S> dense(s);
      solve<S>(dense, kind, {.initial_state = dense.initial_state});
      for (const layout in : support::layouts)
        for (const layout outside : support::layouts) {
          CAPTURE(s.N, s.D, s.E, static_cast<int>(kind), static_cast<int>(in), static_cast<int>(outside));
          const auto q = laid_out(dense.q, in), k = laid_out(dense.k, in), v = laid_out(dense.v, in);
          const auto gates4 = laid_out(dense.feature_gates, in), initial = laid_out(dense.initial_state, in);
          const auto gates3 = laid_out(dense.token_gates, in);
          guarded<S, 4> out({s.B, s.H, s.N, s.E}, outside, support::quiet_nan<S>, S(-777));
          guarded<T, 4> final_state({s.B, s.G, s.D, s.E}, outside, support::quiet_nan<T>, T(-777));
          const recurrence_options<S> options{.initial_state = initial.all(), .final_state = final_state.all()};
          if (kind == gates::feature)
            heed::gated_linear_forward(q.all(), k.all(), v.all(), gates4.all(), out.all(), options);
          else
            heed::gated_linear_forward(q.all(), k.all(), v.all(), gates3.all(), out.all(), options);
          CHECK(same_bits<S, 4>(out.all(), dense.out));
          CHECK(same_bits<T, 4>(final_state.all(), dense.final_state));
          CHECK(out.intact());
          CHECK(final_state.intact());
        }
    }
}

TEST_CASE("gates of tokens may be stored with any stride, and heads may share q and k") {
  // Mamba-2: q and k of all heads are the same, values and gates are not.
  problem<float> p({1, 4, 4, 70, 12, 8}), shared({1, 1, 1, 70, 12, 8});
  tensor<float, 3> heads_last({1, 70, 4});
  for (index_t h = 0; h < 4; ++h)
    for (index_t t = 0; t < 70; ++t) {
      heads_last(0, t, h) = p.token_gates(0, h, t);
      support::copy_into<float, 1>(shared.q.all()[0][0][t], p.q.all()[0][h][t]);
      support::copy_into<float, 1>(shared.k.all()[0][0][t], p.k.all()[0][h][t]);
    }
  solve(p, gates::token);
  tensor<float, 4> out({1, 4, 70, 8});
  heed::gated_linear_forward(shared.q.all().broadcast(1, 4), shared.k.all().broadcast(1, 4), p.v,
                             std::as_const(heads_last).all().swap_axes(1, 2), out);
  CHECK(same_bits<float, 4>(out, p.out));
}
