#include "ops/softmax/problem.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/ops/ring/blockwise.hpp>

#include <stdexcept>
#include <vector>

using namespace softmax_test;

namespace {

using heed::blockwise_options;
using heed::blockwise_status;
using heed::key_value_block;

/// Hands out the keys of a problem, `rows` at a time, each from memory that is gone at the next call.
template <class S>
class stream {
 public:
  stream(const problem<S>& p, index_t rows) : p_(p), rows_(rows) {}

  bool operator()(key_value_block<S>& block) {
    const index_t M = p_.k.extent(2);
    if (at_ >= M) return false;
    const index_t end = std::min(M, at_ + rows_);
    k_ = copy(p_.k, at_, end);
    v_ = copy(p_.v, at_, end);
    block.k = k_;
    block.v = v_;
    at_ = end;
    return true;
  }

 private:
  static tensor<S, 4> copy(const tensor<S, 4>& from, index_t begin, index_t end) {
    tensor<S, 4> to({from.extent(0), from.extent(1), end - begin, from.extent(3)});
    for (index_t b = 0; b < to.extent(0); ++b)
      for (index_t g = 0; g < to.extent(1); ++g)
        std::copy_n(&from(b, g, begin, 0), to.extent(2) * to.extent(3), to.size() > 0 ? &to(b, g, 0, 0) : nullptr);
    return to;
  }

  const problem<S>& p_;
  index_t rows_, at_ = 0;
  tensor<S, 4> k_, v_;
};

/// The options of softmax_forward that mean the same.
template <class S>
softmax_options<S> whole_options(const blockwise_options<S>& o) {
  softmax_options<S> w;
  w.scale = o.scale;
  w.softcap = o.softcap;
  w.sink = o.sink;
  w.window_left = o.window_left;
  w.window_right = o.window_right;
  w.q_offset = o.q_offset;
  w.kv_offset = o.kv_offset;
  return w;
}

template <class S>
double error_of_blocks(const shape& s, index_t rows, blockwise_options<S> options) {
  problem<S> p(s, 9);
  options.lse = p.lse;
  options.executor = heed::serial();
  stream<S> blocks(p, rows);
  if (heed::blockwise_forward(p.q, blocks, p.out, options) != blockwise_status::finished) return 1e9;
  return worst_error(p, reference::softmax<S>(p.q, p.k, p.v, arguments_of<S>(whole_options(options))));
}

}  // namespace

TEMPLATE_TEST_CASE("keys may come in blocks of any size", "", float, heed::bfloat16) {
  using S = TestType;
  support::random_engine random(3);
  const auto sink = support::normal_tensor<float, 1>({4}, random);
  for (const auto& [N, M] : {std::pair<index_t, index_t>{1, 1}, {60, 300}, {300, 60}, {5, 0}, {0, 5}})
    for (const index_t rows : {1, 7, 128, 200, 1000}) {
      if (rows == 1 && M > 100) continue;
      CAPTURE(N, M, rows);
      const shape s{2, 4, 2, N, M, 9, 20};
      CHECK(error_of_blocks<S>(s, rows, {}) <= 1);
      CHECK(error_of_blocks<S>(s, rows, {.sink = sink, .window_right = 0, .q_offset = M - N}) <= 1);
      CHECK(error_of_blocks<S>(s, rows, {.softcap = 2, .window_left = 20, .window_right = 3, .kv_offset = 5}) <= 1);
    }
}

TEMPLATE_TEST_CASE("one block gives the bits of softmax_forward", "", float, heed::bfloat16) {
  using S = TestType;
  problem<S> blocks({2, 4, 2, 130, 170, 9, 20}), whole({2, 4, 2, 130, 170, 9, 20});
  const auto sink = support::normal_tensor<float, 1>({4}, blocks.random);
  blockwise_options<S> o{.sink = sink, .lse = blocks.lse, .window_left = 50, .window_right = 0, .q_offset = 40};
  const std::vector<key_value_block<S>> one{{blocks.k, blocks.v}};
  heed::blockwise_forward(blocks.q, one, blocks.out, o);
  softmax_options<S> w = whole_options(o);
  w.lse = whole.lse;
  heed::softmax_forward(whole.q, whole.k, whole.v, whole.out, w);
  CHECK(same_result(blocks, whole));
}

TEST_CASE("blocks may stand anywhere, come in any order and be empty") {
  problem<float> p({1, 2, 1, 40, 90, 9, 20});
  const auto part = [&](index_t begin, index_t end) {
    return key_value_block<float>{p.k.all().slice(2, begin, end), p.v.all().slice(2, begin, end), begin};
  };
  const std::vector<key_value_block<float>> blocks{part(50, 90), part(20, 20), part(0, 20), part(20, 50)};
  heed::blockwise_forward(p.q, blocks, p.out, {.lse = p.lse, .window_right = 0, .q_offset = 30});
  const auto arguments = arguments_of<float>(whole_options<float>({.window_right = 0, .q_offset = 30}));
  CHECK(worst_error(p, reference::softmax<float>(p.q, p.k, p.v, arguments)) <= 1);
}

TEST_CASE("who computes does not matter, and the scratch asked for is enough") {
  const shape s{2, 4, 2, 130, 300, 9, 20};
  problem<float> first(s);
  stream<float> blocks(first, 100);
  heed::blockwise_forward(first.q, blocks, first.out, {.lse = first.lse, .executor = heed::serial()});
  support::for_each_executor([&](heed::executor_ref where, const char* name) {
    problem<float> p(s);
    stream<float> again(p, 100);
    blockwise_options<float> o{.lse = p.lse, .executor = where};
    std::vector<unsigned char> memory(
        static_cast<std::size_t>(heed::blockwise_forward_scratch_bytes<float>(p.q, s.E, o)), 0xff);
    o.scratch = {memory.data(), static_cast<index_t>(memory.size())};
    heed::blockwise_forward(p.q, again, p.out, o);
    CAPTURE(name);
    CHECK(same_result(p, first));
  });
  const std::vector<key_value_block<float>> one{{first.k, first.v}};
  std::vector<unsigned char> memory(1 << 20);
  const blockwise_options<float> o{.scratch = {memory.data(), 1 << 20}, .executor = heed::serial()};
  CHECK(support::allocations_of([&] { heed::blockwise_forward(first.q, one, first.out, o); }) == 0);
}

TEST_CASE("scratch does not grow with the keys, and hardly with the queries") {
  const view<const float, 4> million(nullptr, {1, 1, 1 << 20, 64});
  CHECK(heed::blockwise_forward_scratch_bytes<float>(million, 64, {.executor = heed::serial()}) < (index_t(9) << 20));
}

TEST_CASE("a cancelled call leaves what it has, and what a callable throws passes") {
  problem<float> p({1, 2, 1, 40, 90, 9, 20});
  std::vector<index_t> told;
  auto some = [&](index_t keys) {
    told.push_back(keys);
    return keys < 60;
  };
  stream<float> blocks(p, 25);
  CHECK(heed::blockwise_forward(p.q, blocks, p.out, {.lse = p.lse, .progress = heed::progress(some)}) ==
        blockwise_status::cancelled);
  CHECK(told == std::vector<index_t>{25, 50, 75});
  CHECK(worst_error(p, reference::softmax<float>(p.q, p.k.all().slice(2, 0, 75), p.v.all().slice(2, 0, 75), {})) <= 1);
  auto fails = [](key_value_block<float>&) -> bool { throw std::runtime_error("no more"); };
  CHECK_THROWS_AS(heed::blockwise_forward(p.q, fails, p.out), std::runtime_error);
  auto stops = [](index_t) -> bool { throw 3; };
  stream<float> again(p, 25);
  CHECK_THROWS_AS(heed::blockwise_forward(p.q, again, p.out, {.progress = heed::progress(stops)}), int);
}

TEST_CASE("keys of blocks that no query sees may hold anything") {
  problem<float> clean({1, 2, 1, 40, 90, 9, 20}), poisoned({1, 2, 1, 40, 90, 9, 20});
  for (index_t j = 40; j < 90; ++j) {
    std::fill_n(&poisoned.k(0, 0, j, 0), 9, support::quiet_nan<float>);
    std::fill_n(&poisoned.v(0, 0, j, 0), 20, support::quiet_nan<float>);
  }
  for (problem<float>* p : {&clean, &poisoned}) {
    stream<float> blocks(*p, 30);
    heed::blockwise_forward(p->q, blocks, p->out, {.lse = p->lse, .window_right = 0});
  }
  CHECK(same_result(clean, poisoned));
}

TEST_CASE("blockwise: bad blocks and options are refused") {
  problem<float> p({1, 2, 1, 40, 90, 9, 20}), other({1, 2, 1, 40, 90, 8, 20});
  std::vector<key_value_block<float>> blocks{{p.k, p.v}, {other.k, p.v}};
  using support::check_refusal;
  check_refusal("blockwise_forward", {"block.k.extent(3)", "9", "8"},
                [&] { heed::blockwise_forward(p.q, blocks, p.out); });
  blocks = {{p.k, p.v, index_t(1) << 40}};
  check_refusal("blockwise_forward", {"options.kv_offset"}, [&] { heed::blockwise_forward(p.q, blocks, p.out); });
  blocks = {{p.out, p.out}};
  check_refusal("blockwise_forward", {"block.k"}, [&] { heed::blockwise_forward(p.q, blocks, p.out); });
  check_refusal("blockwise_forward", {"options.window_left", "-2"},
                [&] { heed::blockwise_forward(p.q, blocks, p.out, {.window_left = -2}); });
  unsigned char small[8];
  check_refusal("blockwise_forward", {"options.scratch", "8"},
                [&] { heed::blockwise_forward(p.q, blocks, p.out, {.scratch = {small, 8}}); });
}
