#include "ops/softmax/step.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

using namespace softmax_test;

namespace {

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({2, 4, 2, 3, 20, 8, 6}) {
    q = p.q;
    k = p.k;
    v = p.v;
    out = p.out;
    options.lse = p.lse;
  }
  void operator()() const { heed::softmax_step(q, k, v, out, options); }

  problem<float> p;
  view<const float, 4> q, k, v;
  view<float, 4> out;
  softmax_step_options<float> options;
};

void refuses(const std::function<void(call&)>& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("softmax_step", parts, c);
  const auto untouched = [](float x) { return std::isnan(x); };
  CHECK(std::all_of(c.p.out.begin(), c.p.out.end(), untouched));
  CHECK(std::all_of(c.p.lse.begin(), c.p.lse.end(), untouched));
}

}  // namespace

TEST_CASE("the legal step of this file is legal") { CHECK_NOTHROW(call()()); }

TEST_CASE("a step refuses tensors that do not fit each other") {
  refuses([](call& c) { c.k = view<const float, 4>(c.k.data(), {2, 3, 10, 8}); }, {"k.extent(1)", "divisor of H = 4"});
  refuses([](call& c) { c.k = c.k.slice(3, 0, 7); }, {"k.extent(3)", "8", "got 7"});
  refuses([](call& c) { c.v = c.v.slice(2, 0, 19); }, {"v.extent(2)", "20", "got 19"});
  refuses([](call& c) { c.out = c.out.slice(2, 0, 2); }, {"out.extent(2)", "3", "got 2"});
  refuses([](call& c) { c.k = c.k.slice(0, 0, 1); }, {"k.extent(0)", "2", "got 1"});
  refuses([](call& c) { c.v = view<const float, 4>(nullptr, {2, 2, 20, 6}); }, {"v", "null"});
  refuses([](call& c) { c.out = view<float, 4>(const_cast<float*>(c.k.data()), {2, 4, 3, 6}); }, {"out", "overlap"});
  refuses([](call& c) { c.options.lse = c.options.lse.slice(1, 0, 3); }, {"options.lse", "4", "got 3"});
}

TEST_CASE("a step refuses options without meaning") {
  static const std::vector<std::int32_t> one{20}, negative{20, -1}, long_one{3, 21};
  static const std::vector<float> memory(1000);
  refuses([](call& c) { c.options.kv_lengths = one; }, {"options.kv_lengths", "batch entry", "got 1"});
  refuses([](call& c) { c.options.kv_lengths = negative; }, {"options.kv_lengths", "M = 20", "got -1"});
  refuses([](call& c) { c.options.kv_lengths = long_one; }, {"options.kv_lengths", "M = 20", "got 21"});
  refuses([](call& c) { c.options.split = 0; }, {"options.split", "at least 1", "got 0"});
  refuses([](call& c) { c.options.scale = HUGE_VAL; }, {"options.scale", "finite"});
  refuses([](call& c) { c.options.softcap = -1; }, {"options.softcap", "got -1"});
  refuses([](call& c) { c.options.window_left = -2; }, {"options.window_left", "got -2"});
  refuses([](call& c) { c.options.q_offset = index_t(1) << 31; }, {"options.q_offset"});
  refuses([](call& c) { c.options.bias = view<const float, 4>(memory.data(), {2, 1, 3, 19}); },
          {"options.bias.extent(3)", "1 or 20", "got 19"});
  refuses([](call& c) { c.options.sink = view<const float, 1>(memory.data(), {3}); }, {"options.sink", "got 3"});
  refuses([](call& c) { c.options.scratch = {c.p.v.data(), 8}; }, {"options.scratch", "bytes", "got 8"});
}
