#include "ops/linear/gated_slot.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

using namespace linear_test;
using support::guarded;
using support::laid_out;
using support::layout;

TEMPLATE_TEST_CASE("strides and padding change no bit of slots, and nothing outside the tensors is read or written", "",
                   float, heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  for (const slot_shape& x :
       {slot_shape{2, 4, 2, 70, 33, 20, 12}, slot_shape{1, 2, 2, 17, 1, 3, 1}, slot_shape{1, 3, 1, 64, 16, 64, 33}}) {
    slot_problem<S> dense(x);
    solve<S>(dense, {.initial_keys = dense.initial_keys, .initial_values = dense.initial_values});
    for (const layout in : support::layouts)
      for (const layout outside : support::layouts) {
        CAPTURE(x.N, x.D, x.E, x.S, static_cast<int>(in), static_cast<int>(outside));
        const auto q = laid_out(dense.q, in), k = laid_out(dense.k, in), v = laid_out(dense.v, in);
        const auto s = laid_out(dense.s, in), g = laid_out(dense.g, in);
        const auto keys = laid_out(dense.initial_keys, in), values = laid_out(dense.initial_values, in);
        guarded<S, 4> out({x.B, x.H, x.N, x.E}, outside, support::quiet_nan<S>, S(-777));
        guarded<T, 4> scores({x.B, x.H, x.N, x.S}, outside, support::quiet_nan<T>, T(-777));
        guarded<T, 4> final_keys({x.B, x.G, x.D, x.S}, outside, support::quiet_nan<T>, T(-777));
        guarded<T, 4> final_values({x.B, x.G, x.S, x.E}, outside, support::quiet_nan<T>, T(-777));
        heed::gated_slot_forward(q.all(), k.all(), v.all(), s.all(), g.all(), out.all(),
                                 {.initial_keys = keys.all(),
                                  .initial_values = values.all(),
                                  .final_keys = final_keys.all(),
                                  .final_values = final_values.all(),
                                  .scores = scores.all()});
        CHECK(same_bits<S, 4>(out.all(), dense.out));
        CHECK(same_bits<T, 4>(scores.all(), dense.scores));
        CHECK(same_bits<T, 4>(final_keys.all(), dense.final_keys));
        CHECK(same_bits<T, 4>(final_values.all(), dense.final_values));
        CHECK(out.intact());
        CHECK(scores.intact());
        CHECK(final_keys.intact());
        CHECK(final_values.intact());
      }
  }
}
