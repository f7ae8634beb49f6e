#include "ops/linear/gated_backward.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

using namespace linear_test;
using support::laid_out;
using support::layout;
using support::output_like;

TEMPLATE_TEST_CASE("strides and padding change no bit of gradients, and nothing outside is read or written", "", float,
                   heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  for (const shape& s : {shape{2, 4, 2, 70, 33, 20}, shape{1, 2, 2, 17, 1, 3}, shape{1, 3, 1, 64, 16, 64}})
    for (const gates kind : gate_kinds) {
      backward_problem<S> dense(s);
      solve<S>(dense, kind, {.initial_state = dense.initial_state, .dfinal_state = dense.dfinal_state});
      for (const layout in : support::layouts)
        for (const layout outside : support::layouts) {
          CAPTURE(s.N, s.D, s.E, static_cast<int>(kind), static_cast<int>(in), static_cast<int>(outside));
          const auto q = laid_out(dense.q, in), k = laid_out(dense.k, in), v = laid_out(dense.v, in);
          const auto dout = laid_out(dense.dout, in), gates4 = laid_out(dense.feature_gates, in),
                     initial = laid_out(dense.initial_state, in), dfinal = laid_out(dense.dfinal_state, in);
          const auto gates3 = laid_out(dense.token_gates, in);
          auto dq = output_like(dense.dq, outside), dk = output_like(dense.dk, outside),
               dv = output_like(dense.dv, outside);
          auto dgates4 = output_like(dense.dfeature_gates, outside),
               dinitial = output_like(dense.dinitial_state, outside);
          auto dgates3 = output_like(dense.dtoken_gates, outside);
          const recurrence_backward_options<S> options{
              .initial_state = initial.all(), .dinitial_state = dinitial.all(), .dfinal_state = dfinal.all()};
          if (kind == gates::feature)
            heed::gated_linear_backward(q.all(), k.all(), v.all(), gates4.all(), dout.all(), dq.all(), dk.all(),
                                        dv.all(), dgates4.all(), options);
          else
            heed::gated_linear_backward(q.all(), k.all(), v.all(), gates3.all(), dout.all(), dq.all(), dk.all(),
                                        dv.all(), dgates3.all(), options);
          CHECK(same_bits<S, 4>(dq.all(), dense.dq));
          CHECK(same_bits<S, 4>(dk.all(), dense.dk));
          CHECK(same_bits<S, 4>(dv.all(), dense.dv));
          CHECK(same_bits<T, 4>(dgates4.all(), dense.dfeature_gates));
          CHECK(same_bits<T, 3>(dgates3.all(), dense.dtoken_gates));
          CHECK(same_bits<T, 4>(dinitial.all(), dense.dinitial_state));
          const bool intact =
              dq.intact() && dk.intact() && dv.intact() && dgates4.intact() && dgates3.intact() && dinitial.intact();
          CHECK(intact);
        }
    }
}

TEST_CASE("gradients of gates of tokens may be stored with any stride") {
  backward_problem<float> p({1, 4, 4, 70, 12, 8});
  tensor<float, 3> gates_last({1, 70, 4}), dgates_last({1, 70, 4});
  for (index_t h = 0; h < 4; ++h)
    for (index_t t = 0; t < 70; ++t) gates_last(0, t, h) = p.token_gates(0, h, t);
  solve(p, gates::token);
  const tensor<float, 4> dk = p.dk;
  heed::gated_linear_backward(p.q, p.k, p.v, std::as_const(gates_last).all().swap_axes(1, 2), p.dout, p.dq, p.dk, p.dv,
                              dgates_last.all().swap_axes(1, 2));
  CHECK(same_bits<float, 4>(p.dk, dk));
  for (index_t h = 0; h < 4; ++h)
    for (index_t t = 0; t < 70; ++t) CHECK(dgates_last(0, t, h) == p.dtoken_gates(0, h, t));
}
