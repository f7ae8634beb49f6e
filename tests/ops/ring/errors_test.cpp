#include "ops/ring/ring.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ring_test;

namespace {

using problem = backward_problem<float>;

/// What both calls say on each rank, if `change(rank, tensors, options)` was made to arguments that fit; striped over
/// two ranks, 20 tokens.
struct sayings {
  std::string forward[2], backward[2];
};

template <class Change>
sayings said_of(const Change& change) {
  sayings said;
  problem p({2, 4, 2, 20, 20, 6, 5});
  const token_layout l = heed::striped_layout(20, 2);
  heed::in_process_group group(2, 60);
  group.run([&](heed::in_process_transport& ranks) {
    const int r = ranks.rank();
    shard<float> own(p, l, l, r);
    heed::ring_backward_options<float> o{.layout = l, .executor = heed::serial()};
    view<const float, 4> q = own.q, k = own.k;
    change(r, own, q, k, o);
    heed::ring_options<float> f = forward_options(o);
    said.forward[r] = support::message_of([&] { heed::ring_forward(ranks, q, k, own.v, own.out, f); });
    said.backward[r] = support::message_of(
        [&] { heed::ring_backward(ranks, q, k, own.v, own.out, own.lse, own.dout, own.dq, own.dk, own.dv, o); });
    // The transport is as good as before.
    ranks.barrier();
    for (const float x : own.out)
      if (said.forward[r] != "no exception" && !std::isnan(x)) throw std::logic_error("written to");
  });
  return said;
}

/// All ranks must refuse the call and say these parts.
template <class Change>
void check_all(const std::vector<std::string>& parts, const Change& change) {
  const sayings said = said_of(change);
  for (int r = 0; r < 2; ++r)
    for (const std::string& part : parts) {
      CAPTURE(r, part, said.forward[r], said.backward[r]);
      CHECK(said.forward[r].find("heed::ring_forward: ") == 0);
      CHECK(said.backward[r].find("heed::ring_backward: ") == 0);
      CHECK(said.forward[r].find(part) != std::string::npos);
      CHECK(said.backward[r].find(part) != std::string::npos);
    }
}

/// Rank 0 must say these parts, the other that some rank was refused.
template <class Change>
void check_one(const std::vector<std::string>& parts, const Change& change) {
  const sayings said = said_of([&](int r, auto&... rest) {
    if (r == 0) change(rest...);
  });
  for (const std::string& part : parts) {
    CAPTURE(part, said.forward[0], said.backward[0]);
    CHECK(said.forward[0].find(part) != std::string::npos);
    CHECK(said.backward[0].find(part) != std::string::npos);
  }
  CHECK(said.forward[1].find("arguments: expected ones that fit on all ranks, got some on rank 0 that do not") !=
        std::string::npos);
  CHECK(said.backward[1].find("arguments: expected ones that fit on all ranks, got some on rank 0 that do not") !=
        std::string::npos);
}

}  // namespace

using tensors = shard<float>;
using options = heed::ring_backward_options<float>;
using tensor_view = view<const float, 4>;

TEST_CASE("a rank that is not refused learns who is, whose own exception comes out of run") {
  problem p({1, 2, 1, 20, 20, 6, 5});
  const token_layout l = heed::striped_layout(20, 2);
  heed::in_process_group group(2, 60);
  int refusing = -1;
  const std::string said = support::message_of([&] {
    group.run([&](heed::in_process_transport& ranks) {
      shard<float> own(p, l, l, ranks.rank());
      const int tag = ranks.rank() == 0 ? 0 : -1;
      try {
        heed::ring_forward(ranks, own.q, own.k, own.v, own.out, {.layout = l, .tag = tag});
      } catch (const heed::refused_elsewhere& error) {
        refusing = error.rank();
        throw;
      }
    });
  });
  CHECK(refusing == 1);
  CHECK(said.find("options.tag") != std::string::npos);
}

TEST_CASE("arguments that fit are taken") {
  const sayings said = said_of([](int, tensors&, tensor_view&, tensor_view&, options&) {});
  for (int r = 0; r < 2; ++r) {
    CHECK(said.forward[r] == "no exception");
    CHECK(said.backward[r] == "no exception");
  }
}

TEST_CASE("arguments of one rank that do not fit are refused on all") {
  check_one({"q.extent(2)", "expected 9", "got 10"},
            [](tensors&, tensor_view&, tensor_view&, options& o) { o.layout = heed::striped_layout(18, 2); });
  check_one({"k.extent(2)", "expected 9", "got 10"},
            [](tensors&, tensor_view&, tensor_view&, options& o) { o.kv_layout = heed::striped_layout(18, 2); });
  check_one({"out.extent(2)", "9 (N, as q)"},
            [](tensors& t, tensor_view& q, tensor_view&, options&) { q = t.q.all().slice(2, 0, 9); });
  check_one({"options.layout", "expected a layout, got none"},
            [](tensors&, tensor_view&, tensor_view&, options& o) { o.layout = {}; });
  check_one({"options.layout", "one of 2 ranks", "got 3"},
            [](tensors&, tensor_view&, tensor_view&, options& o) { o.layout = heed::striped_layout(30, 3); });
  check_one({"options.kv_layout", "one of 2 ranks", "got 3"},
            [](tensors&, tensor_view&, tensor_view&, options& o) { o.kv_layout = heed::striped_layout(30, 3); });
  check_one({"options.window_left", "-2"},
            [](tensors&, tensor_view&, tensor_view&, options& o) { o.window_left = -2; });
  check_one({"options.softcap"}, [](tensors&, tensor_view&, tensor_view&, options& o) { o.softcap = -1; });
  check_one({"options.tag", "32767"}, [](tensors&, tensor_view&, tensor_view&, options& o) { o.tag = 32767; });
  check_one({"options.q_offset"},
            [](tensors&, tensor_view&, tensor_view&, options& o) { o.q_offset = index_t(1) << 40; });
  check_one({"options.bias.extent(3)", "1 or 20", "10"}, [](tensors& t, tensor_view&, tensor_view&, options& o) {
    o.bias = view<const float, 4>(t.q.data(), {1, 1, 1, 10});
  });
  check_one({"q"}, [](tensors& t, tensor_view& q, tensor_view&, options&) { q = t.out.all(); });
  unsigned char small[8];
  check_one({"options.scratch", "got 8"},
            [&](tensors&, tensor_view&, tensor_view&, options& o) { o.scratch = {small, 8}; });
}

TEST_CASE("ranks that were told different things are refused, with what differs") {
  const tensor<float, 1> sink({4});
  check_all({"options.scale", "the same on all ranks"},
            [](int r, tensors&, tensor_view&, tensor_view&, options& o) { o.scale = 1.0 + r; });
  check_all({"options.softcap"}, [](int r, tensors&, tensor_view&, tensor_view&, options& o) { o.softcap = r; });
  check_all({"options.window_left"},
            [](int r, tensors&, tensor_view&, tensor_view&, options& o) { o.window_left = r; });
  check_all({"options.window_right"},
            [](int r, tensors&, tensor_view&, tensor_view&, options& o) { o.window_right = r; });
  check_all({"options.q_offset"}, [](int r, tensors&, tensor_view&, tensor_view&, options& o) { o.q_offset = r; });
  check_all({"options.kv_offset"},
            [](int r, tensors&, tensor_view&, tensor_view&, options& o) { o.kv_offset = r, o.q_offset = 0; });
  check_all({"options.tag"}, [](int r, tensors&, tensor_view&, tensor_view&, options& o) { o.tag = r; });
  check_all({"options.layout"}, [](int r, tensors&, tensor_view&, tensor_view&, options& o) {
    if (r == 1) o.layout = heed::contiguous_layout(20, 2);
  });
  check_all({"options.sink"}, [&](int r, tensors&, tensor_view&, tensor_view&, options& o) {
    if (r == 1) o.sink = sink;
  });
  check_all({"options.kv_layout"}, [](int r, tensors&, tensor_view&, tensor_view&, options& o) {
    if (r == 1) o.kv_layout = heed::contiguous_layout(20, 2);
  });
  const tensor<float, 4> bias({1, 4, 10, 20});
  check_all({"options.bias"}, [&](int r, tensors&, tensor_view&, tensor_view&, options& o) {
    if (r == 1) o.bias = bias;
  });
  const auto check_extents = [](const char* name, const softmax_test::shape& other) {
    check_all({name}, [&](int r, tensors& t, tensor_view& q, tensor_view& k, options& o) {
      if (r == 0) return;
      t = shard<float>(problem(other), o.layout, o.layout, r);
      q = t.q, k = t.k;
    });
  };
  check_extents("q.extent(0) (B)", {1, 4, 2, 20, 20, 6, 5});
  check_extents("q.extent(1) (H)", {2, 2, 2, 20, 20, 6, 5});
  check_extents("k.extent(1) (G)", {2, 4, 1, 20, 20, 6, 5});
  check_extents("q.extent(3) (D)", {2, 4, 2, 20, 20, 7, 5});
  check_extents("v.extent(3) (E)", {2, 4, 2, 20, 20, 6, 4});
}

namespace {

/// What call(ranks, tensors, layout) says on each of two ranks.
template <class Call>
void check_both(const std::string& part, const Call& call) {
  problem p({1, 2, 1, 20, 20, 6, 5});
  const token_layout l = heed::striped_layout(20, 2);
  heed::in_process_group group(2, 60);
  std::string said[2];
  group.run([&](heed::in_process_transport& ranks) {
    shard<float> own(p, l, l, ranks.rank());
    said[ranks.rank()] = support::message_of([&] { call(ranks, own, l); });
  });
  for (const std::string& one : said) {
    CAPTURE(one);
    CHECK(one.find(part + ": expected the same on all ranks, got ") != std::string::npos);
  }
}

}  // namespace

TEST_CASE("ranks that were given other mods are refused, two lambdas of one place too") {
  const auto causal = [](heed::position at) { return at.q >= at.kv; };
  const auto strict = [](heed::position at) { return at.q > at.kv; };
  for (const bool both : {true, false})
    check_both("mods", [&](heed::in_process_transport& ranks, shard<float>& own, const token_layout& l) {
      const heed::ring_options<float> o{.layout = l, .executor = heed::serial()};
      if (ranks.rank() == 0)
        heed::ring_forward(ranks, own.q, own.k, own.v, own.out, o, causal);
      else if (both)
        heed::ring_forward(ranks, own.q, own.k, own.v, own.out, o, strict);
      else
        heed::ring_forward(ranks, own.q, own.k, own.v, own.out, o);
    });
}

TEST_CASE("ranks that are in different operators, or ask for different sums, are refused") {
  tensor<float, 1> sink({2}), dsink({2});
  check_both("operator and element type",
             [](heed::in_process_transport& ranks, shard<float>& own, const token_layout& l) {
               if (ranks.rank() == 0)
                 heed::ring_forward(ranks, own.q, own.k, own.v, own.out, {.layout = l});
               else
                 heed::ring_backward(ranks, own.q, own.k, own.v, own.out, own.lse, own.dout, own.dq, own.dk, own.dv,
                                     {.layout = l});
             });
  check_both("options.dsink", [&](heed::in_process_transport& ranks, shard<float>& own, const token_layout& l) {
    heed::ring_backward_options<float> o{.layout = l, .sink = sink};
    if (ranks.rank() == 1) o.dsink = dsink;
    heed::ring_backward(ranks, own.q, own.k, own.v, own.out, own.lse, own.dout, own.dq, own.dk, own.dv, o);
  });
}

TEST_CASE("gradients that make no sense over ranks are refused") {
  problem p({1, 2, 1, 20, 20, 6, 5});
  heed::in_process_group group(1);
  const token_layout l = heed::striped_layout(20, 1);
  tensor<float, 4> bias({1, 2, 1, 20}), dbias({1, 2, 1, 20});
  tensor<float, 1> dsink({2});
  const auto call = [&](heed::ring_backward_options<float> o) {
    o.layout = l;
    heed::ring_backward(group.rank(0), p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, o);
  };
  support::check_refusal("ring_backward", {"options.bias.extent(2)", "20", "1"},
                         [&] { call({.bias = bias, .dbias = dbias}); });
  support::check_refusal("ring_backward", {"options.dsink", "sink"}, [&] { call({.dsink = dsink}); });
  support::check_refusal("ring_backward", {"dk", "overlap"}, [&] {
    heed::ring_backward(group.rank(0), p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.k, p.dv, {.layout = l});
  });
}
