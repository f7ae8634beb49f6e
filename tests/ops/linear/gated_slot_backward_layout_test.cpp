#include "ops/linear/gated_slot_backward.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

using namespace linear_test;
using support::laid_out;
using support::layout;
using support::output_like;

TEMPLATE_TEST_CASE("strides and padding change no bit of gradients of slots, and nothing outside is read or written",
                   "", float, heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  for (const slot_shape& x :
       {slot_shape{2, 4, 2, 70, 33, 20, 12}, slot_shape{1, 2, 2, 17, 1, 3, 1}, slot_shape{1, 3, 1, 64, 16, 64, 33}}) {
    slot_backward_problem<S> dense(x);
    solve<S>(dense, with_slots(dense));
    for (const layout in : support::layouts)
      for (const layout outside : support::layouts) {
        CAPTURE(x.N, x.D, x.E, x.S, static_cast<int>(in), static_cast<int>(outside));
        const auto q = laid_out(dense.q, in), k = laid_out(dense.k, in), v = laid_out(dense.v, in),
                   dout = laid_out(dense.dout, in);
        const auto s = laid_out(dense.s, in), g = laid_out(dense.g, in), scores = laid_out(dense.scores, in);
        const auto keys = laid_out(dense.initial_keys, in), values = laid_out(dense.initial_values, in),
                   dfinal_keys = laid_out(dense.dfinal_keys, in), dfinal_values = laid_out(dense.dfinal_values, in);
        auto dq = output_like(dense.dq, outside), dk = output_like(dense.dk, outside),
             dv = output_like(dense.dv, outside);
        auto ds = output_like(dense.ds, outside), dg = output_like(dense.dg, outside),
             dkeys = output_like(dense.dinitial_keys, outside), dvalues = output_like(dense.dinitial_values, outside);
        heed::gated_slot_backward(q.all(), k.all(), v.all(), s.all(), g.all(), scores.all(), dout.all(), dq.all(),
                                  dk.all(), dv.all(), ds.all(), dg.all(),
                                  {.initial_keys = keys.all(),
                                   .initial_values = values.all(),
                                   .dinitial_keys = dkeys.all(),
                                   .dinitial_values = dvalues.all(),
                                   .dfinal_keys = dfinal_keys.all(),
                                   .dfinal_values = dfinal_values.all()});
        CHECK(same_bits<S, 4>(dq.all(), dense.dq));
        CHECK(same_bits<S, 4>(dk.all(), dense.dk));
        CHECK(same_bits<S, 4>(dv.all(), dense.dv));
        CHECK(same_bits<T, 4>(ds.all(), dense.ds));
        CHECK(same_bits<T, 4>(dg.all(), dense.dg));
        CHECK(same_bits<T, 4>(dkeys.all(), dense.dinitial_keys));
        CHECK(same_bits<T, 4>(dvalues.all(), dense.dinitial_values));
        const bool intact = dq.intact() && dk.intact() && dv.intact() && ds.intact() && dg.intact() && dkeys.intact() &&
                            dvalues.intact();
        CHECK(intact);
      }
  }
}
