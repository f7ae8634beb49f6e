// softmax_forward and softmax_backward against the golden cases, within the bounds of their documentation.
#include "golden/softmax_backward/problem.hpp"
#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"

#include <heed/mod/parametric.hpp>

using golden::softmax_case;
using namespace softmax_test;

namespace {

/// The most heads that slopes are for.
constexpr int heads = 4;

template <class S>
void check_case(const softmax_case& c) {
  using T = heed::accumulator_t<S>;
  const golden::problem definition(c);
  const auto& call = definition.call;
  const index_t B = definition.q.extent(0), H = definition.q.extent(1), N = definition.q.extent(2);
  backward_problem<S> p(
      {B, H, definition.k.extent(1), N, definition.k.extent(2), definition.q.extent(3), definition.v.extent(3)});
  p.q = c.get<S, 4>("q");
  p.k = c.get<S, 4>("k");
  p.v = c.get<S, 4>("v");
  p.dout = c.get<S, 4>("dout");
  softmax_backward_options<S> options{.scale = *call.scale,
                                      .softcap = call.softcap,
                                      .window_left = call.window_left,
                                      .window_right = c.number("causal", 0) == 1 ? 0 : call.window_right,
                                      .q_offset = *call.q_offset,
                                      .kv_offset = call.kv_offset};
  tensor<S, 4> bias, dbias;
  tensor<T, 1> sink;
  if (c.has("bias")) {
    dbias = bias = c.get<S, 4>("bias");
    options.bias = bias;
    options.dbias = dbias;
  }
  if (c.has("sink")) {
    sink = c.get<T, 1>("sink");
    options.sink = sink;
    options.dsink = p.dsink;
  }
  if (c.has("dlse")) {
    p.dlse = c.get<T, 3>("dlse");
    options.dlse = p.dlse;
  }
  tensor<double, 1> slopes({heads}), dslopes({heads});
  if (c.has("slopes")) {
    for (index_t h = 0; h < H; ++h) slopes(h) = definition.slopes(h);
    const auto alibi = [](auto s, auto at, const auto& w) { return s - w[std::size_t(at.h)] * (at.q - at.kv); };
    solve<S>(p, options, heed::with_parameters<heads>(alibi, slopes, dslopes));
  } else {
    solve<S>(p, options);
  }

  auto forward = reference::softmax<double>(definition.q, definition.k, definition.v, call);
  forward.out = c.get<double, 4>("out");
  forward.lse = c.get<double, 3>("lse");
  CHECK(worst_error<S>(p, forward) <= 1);
  auto gradients = reference::softmax_backward<double>(definition.q, definition.k, definition.v, definition.dout,
                                                       definition.dlse, call);
  gradients.dq = c.get<double, 4>("dq");
  gradients.dk = c.get<double, 4>("dk");
  gradients.dv = c.get<double, 4>("dv");
  CHECK(worst_error<S>(p, gradients, N, p.k.extent(2)) <= 1);
  if (c.has("bias")) CHECK(worst_gradient<S, 4>(dbias, c.get<double, 4>("dbias"), gradients.dbias_noise) <= 1);
  if (c.has("sink")) CHECK(worst_gradient<T, 1>(p.dsink, c.get<double, 1>("dsink"), gradients.dsink_noise) <= 1);
  if (c.has("slopes")) {
    const auto expected = c.get<double, 1>("dslopes");
    for (index_t h = 0; h < H; ++h)
      CHECK(relative_to(dslopes(h), expected(h), 2 * roundoff<T> * gradients.dscore_noise[std::size_t(h)]) <= 1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("softmax_forward and softmax_backward agree with golden cases", "", float, double) {
  for (const softmax_case& c : golden::read_softmax_cases()) {
    INFO(c.name);
    check_case<TestType>(c);
  }
}
