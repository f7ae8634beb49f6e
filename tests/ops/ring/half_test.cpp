#include "ops/ring/ring.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

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
    int keys = 0, sums = 0;
    for (const auto& message : run.sent[0]) {
      const bool is_keys = message.tag == 0;
      const int source = (3 - (is_keys ? keys++ % 2 : sums++)) % 3;
      CHECK(message.bytes == run.kv.layout.count(source) * 2 * (9 + 20) * (is_keys ? 2 : 4));
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

TEST_CASE("a ring's memory depends on the shards alone: two of keys beside what rows of queries need") {
  using S = heed::bfloat16;
  const index_t H = 4, G = 2, D = 9, E = 20;
  const auto bytes = [&](int P, index_t rows) {
    heed::in_process_group group(P);
    const token_layout l = heed::contiguous_layout(rows * P, P);
    const view<const S, 4> q(nullptr, {1, H, rows, D}), k(nullptr, {1, G, rows, D}), v(nullptr, {1, G, rows, E});
    const auto forward =
        heed::ring_forward_scratch_bytes<S>(group.rank(0), q, k, v, {.layout = l, .executor = heed::serial()});
    const auto backward =
        heed::ring_backward_scratch_bytes<S>(group.rank(0), q, k, v, {.layout = l, .executor = heed::serial()});
    return std::pair(forward, backward);
  };
  CHECK(bytes(2, 512) == bytes(8, 512));
  const index_t shard = 512 * G * (D + E) * 2, states = 512 * H * (E + 2) * 4, positions = 2 * 512 * 4;
  CHECK(bytes(3, 1024).first - bytes(3, 512).first == 2 * shard + states + positions);
}

TEST_CASE("ranks that hold other element types are refused") {
  const softmax_test::shape s{1, 4, 2, 20, 20, 9, 20};
  backward_problem<heed::bfloat16> p(s);
  backward_problem<heed::float16> other(s);
  const token_layout l = heed::zigzag_layout(20, 2);
  heed::in_process_group group(2, 60);
  std::string said[2];
  group.run([&](heed::in_process_transport& plain) {
    support::hostile_transport ranks(plain, {});
    const int r = ranks.rank();
    const auto call = [&](const auto& whole) {
      shard own(whole, l, l, r);
      said[r] = support::message_of(
          [&] { heed::ring_forward(ranks, own.q, own.k, own.v, own.out, {.layout = l, .executor = heed::serial()}); });
    };
    r == 0 ? call(p) : call(other);
  });
  for (const std::string& one : said)
    CHECK(one.find("element type: expected the same on all ranks") != std::string::npos);
}
