#include "reference/efficient.hpp"

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace reference_test;

TEST_CASE("gradients of the reference of efficient attention are its differences") {
  for (const bool softmax : {true, false}) {
    support::random_engine random(5);
    reference::efficient_attention x{support::normal_tensor<double, 4>({2, 4, 5, 3}, random),
                                     support::normal_tensor<double, 4>({2, 2, 7, 3}, random),
                                     support::normal_tensor<double, 4>({2, 2, 7, 2}, random),
                                     softmax,
                                     {7, 4}};
    const auto dout = support::normal_tensor<double, 4>({2, 4, 5, 2}, random);
    const auto objective = [&] { return weighted_sum(dout, reference::efficient(x).out); };
    const auto g = reference::efficient_backward(x, dout);
    comparison c;
    c.add(g.dq, differences(x.q, objective));
    c.add(g.dk, differences(x.k, objective));
    c.add(g.dv, differences(x.v, objective));
    CAPTURE(softmax);
    CHECK(c.difference <= tolerance * c.size);
  }
}
