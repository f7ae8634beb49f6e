#include "reference/swin.hpp"

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace reference_test;

TEST_CASE("gradients of the reference of window attention are its differences") {
  support::random_engine random(3);
  for (const bool pads : {false, true}) {
    reference::swin_attention<double> x{support::normal_tensor<double, 4>({2, 2, 15, 3}, random),
                                        support::normal_tensor<double, 4>({2, 1, 15, 3}, random),
                                        support::normal_tensor<double, 4>({2, 1, 15, 2}, random),
                                        3,
                                        5,
                                        2,
                                        3,
                                        1,
                                        2};
    x.table = support::normal_tensor<double, 2>({15, 2}, random);
    if (pads) {
      x.k_pad = support::normal_tensor<double, 2>({1, 3}, random);
      x.v_pad = support::normal_tensor<double, 2>({1, 2}, random);
    }
    const auto dout = support::normal_tensor<double, 4>({2, 2, 15, 2}, random);
    const auto objective = [&] { return weighted_sum(dout, reference::swin(x).out); };
    const auto g = reference::swin_backward(x, dout);
    comparison c;
    c.add(g.rows.dq, differences(x.q, objective));
    c.add(g.rows.dk, differences(x.k, objective));
    c.add(g.rows.dv, differences(x.v, objective));
    c.add(g.dtable, differences(x.table, objective));
    if (pads) {
      c.add(g.dk_pad, differences(x.k_pad, objective));
      c.add(g.dv_pad, differences(x.v_pad, objective));
    }
    CAPTURE(pads);
    CHECK(c.difference <= tolerance * c.size);
  }
}
