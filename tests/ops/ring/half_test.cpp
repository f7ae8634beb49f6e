#include "ops/ring/ring.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace ring_test;

TEMPLATE_TEST_CASE("16-bit tensors travel as they are, their sums in float", "", heed::bfloat16, heed::float16) {
  using S = TestType;
  for (const deal how : all_deals) {
    backward_problem<S> p({1, 4, 2, 40, 55, 9, 20}, 2);
    const auto sink = support::normal_tensor<float, 1>({4}, p.random);
    const auto bias = support::normal_tensor<S, 4>({1, 4, 40, 55}, p.random);
    auto dbias = tensor<S, 4>::full({1, 4, 40, 55}, support::quiet_nan<S>);
    const softmax_backward_options<S> o{.bias = bias, .dbias = dbias, .sink = sink, .window_right = 0};
    ring_run run{deal_out(how, 40, 3), deal_out(how, 55, 3)};
    CAPTURE(int(how));
    CHECK(ring_error(p, run, o, softmax_test::arguments_of<S>(o)) <= 1);
    for (const auto& message : run.sent[0]) {
      const index_t rows = message.bytes / (2 * (9 + 20)) / (message.tag == 0 ? 2 : 4);
      CHECK(rows * 2 * (9 + 20) * (message.tag == 0 ? 2 : 4) == message.bytes);
      CHECK(rows <= 55);
    }
    backward_problem<S> alone({1, 4, 2, 40, 55, 9, 20}, 2);
    ring_run one{deal_out(how, 40, 1), deal_out(how, 55, 1)};
    alone.q = p.q, alone.k = p.k, alone.v = p.v;
    backward_problem<S> plain = alone;
    solve_ring(alone, one, {.window_right = 0});
    softmax_test::solve<S>(plain, {.window_right = 0});
    CHECK(same_results(alone, plain));
  }
}

TEMPLATE_TEST_CASE("with scratch of the caller's a ring of one allocates nothing, and NaN in it changes nothing", "",
                   float, heed::bfloat16) {
  using S = TestType;
  const softmax_test::shape s{2, 4, 2, 70, 130, 9, 20};
  backward_problem<S> own(s), lent(s);
  heed::in_process_group group(1);
  heed::in_process_transport& ranks = group.rank(0);
  heed::ring_options<S> f{
      .layout = heed::striped_layout(70, 1), .kv_layout = heed::striped_layout(130, 1), .executor = heed::serial()};
  heed::ring_backward_options<S> b{.layout = f.layout, .kv_layout = f.kv_layout, .executor = heed::serial()};
  const auto call = [&](backward_problem<S>& p) {
    f.lse = p.lse;
    heed::ring_forward(ranks, p.q, p.k, p.v, p.out, f);
    heed::ring_backward(ranks, p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, b);
  };
  call(own);
  std::vector<unsigned char> forward(
      static_cast<std::size_t>(heed::ring_forward_scratch_bytes<S>(ranks, lent.q, lent.k, lent.v, f)), 0xff);
  std::vector<unsigned char> backward(
      static_cast<std::size_t>(heed::ring_backward_scratch_bytes<S>(ranks, lent.q, lent.k, lent.v, b)), 0xff);
  f.scratch = {forward.data(), static_cast<index_t>(forward.size())};
  b.scratch = {backward.data(), static_cast<index_t>(backward.size())};
  heed::release_scratch();
  CHECK(support::allocations_of([&] { call(lent); }) == 0);
  CHECK(same_results(own, lent));
  f.scratch.bytes -= 1;
  CHECK_THROWS_AS(call(lent), heed::invalid_argument);
}
