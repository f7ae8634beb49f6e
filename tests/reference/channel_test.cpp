#include "reference/channel.hpp"

#include "reference/differences.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace reference_test;

TEST_CASE("gradients of the reference of channel attention are its differences") {
  support::random_engine random(4);
  const auto normal = [&] { return support::normal_tensor<double, 4>({2, 2, 5, 3}, random); };
  reference::channel_attention x{normal(), normal(), normal(), 0.7};
  const auto dout = normal();
  const auto objective = [&] { return weighted_sum(dout, reference::channel(x)); };
  const auto g = reference::channel_backward(x, dout);
  comparison c;
  c.add(g.dq, differences(x.q, objective));
  c.add(g.dk, differences(x.k, objective));
  c.add(g.dv, differences(x.v, objective));
  CHECK(c.difference <= tolerance * c.size);
}
