#include "ops/linear/gated_slot_backward.hpp"
#include "ops/linear/gated_slot_step.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

using namespace linear_test;
using support::with_extents;

namespace {

/// Legal calls, to be spoiled in one place.
struct call {
  call() : p({1, 4, 2, 10, 8, 6, 5}) {
    p.scores.fill(0);
    q = p.q;
    k = p.k;
    v = p.v;
    s = p.s;
    g = p.g;
    out = p.out;
    scores = p.scores;
    dout = p.dout;
    dq = p.dq;
    dk = p.dk;
    dv = p.dv;
    ds = p.ds;
    dg = p.dg;
    keys = p.final_keys;
    values = p.final_values;
    forward.initial_keys = backward.initial_keys = p.initial_keys;
    forward.initial_values = backward.initial_values = p.initial_values;
    forward.final_keys = p.final_keys;
    forward.final_values = p.final_values;
    backward.dinitial_keys = p.dinitial_keys;
    backward.dinitial_values = p.dinitial_values;
    backward.dfinal_keys = p.dfinal_keys;
    backward.dfinal_values = p.dfinal_values;
  }

  bool untouched() const {
    const auto is = [](const tensor<float, 4>& t) {
      return std::all_of(t.begin(), t.end(), [](float x) { return std::isnan(x); });
    };
    return is(p.out) && is(p.final_keys) && is(p.final_values) && is(p.dq) && is(p.dk) && is(p.dv) && is(p.ds) &&
           is(p.dg) && is(p.dinitial_keys) && is(p.dinitial_values);
  }

  slot_backward_problem<float> p;
  view<const float, 4> q, k, v, s, g, scores, dout;
  view<float, 4> out, dq, dk, dv, ds, dg, keys, values;
  gated_slot_options<float> forward;
  gated_slot_backward_options<float> backward;
  gated_slot_step_options<float> step;
};

void run_forward(const call& c) { heed::gated_slot_forward(c.q, c.k, c.v, c.s, c.g, c.out, c.forward); }
void run_backward(const call& c) {
  heed::gated_slot_backward(c.q, c.k, c.v, c.s, c.g, c.scores, c.dout, c.dq, c.dk, c.dv, c.ds, c.dg, c.backward);
}
void run_step(const call& c) { heed::gated_slot_step(c.q, c.k, c.v, c.s, c.g, c.out, c.keys, c.values, c.step); }

struct operation {
  const char* name;
  void (*run)(const call&);
};
constexpr operation forward{"gated_slot_forward", run_forward}, backward{"gated_slot_backward", run_backward},
    step{"gated_slot_step", run_step};

/// The operations must throw, say all of `parts` and who they are, and write nothing.
void refuse(std::initializer_list<operation> operations, void (*spoil)(call&), const std::vector<std::string>& parts) {
  for (const operation& o : operations) {
    call c;
    spoil(c);
    support::check_refusal(o.name, parts, [&] { o.run(c); });
    CHECK(c.untouched());
  }
}
void all_refuse(void (*spoil)(call&), const std::vector<std::string>& parts) {
  refuse({forward, backward, step}, spoil, parts);
}

}  // namespace

TEST_CASE("the legal calls of slots of this file are legal") {
  for (const operation& o : {forward, backward, step}) {
    call c;
    CHECK_NOTHROW(o.run(c));
  }
}

TEST_CASE("slots of extents that do not fit each other are refused") {
  all_refuse([](call& c) { c.k = with_extents(c.k, {1, 3, 5, 8}); }, {"k.extent(1)", "divisor of H = 4", "got 3"});
  all_refuse([](call& c) { c.k = with_extents(c.k, {1, 2, 10, 7}); }, {"k.extent(3)", "8", "got 7"});
  all_refuse([](call& c) { c.v = with_extents(c.v, {1, 2, 10, 5}); }, {"v.extent(3)", "6", "got 5"});
  all_refuse([](call& c) { c.s = with_extents(c.s, {1, 2, 9, 5}); }, {"s.extent(2)", "10", "got 9"});
  all_refuse([](call& c) { c.s = with_extents(c.s, {1, 1, 10, 5}); }, {"s.extent(1)", "2", "got 1"});
  all_refuse([](call& c) { c.g = with_extents(c.g, {1, 2, 10, 4}); }, {"g.extent(3)", "5", "got 4"});
  all_refuse([](call& c) { c.g = with_extents(c.g, {1, 1, 10, 5}); }, {"g.extent(1)", "2", "got 1"});
  all_refuse([](call& c) { c.s = c.g = with_extents(c.s, {1, 2, 10, 0}); }, {"s.extent(3)", "at least 1", "got 0"});
  all_refuse(
      [](call& c) {
        c.k = with_extents(c.k, {1, 2, 9, 8});
        c.v = with_extents(c.v, {1, 2, 9, 6});
        c.s = with_extents(c.s, {1, 2, 9, 5});
        c.g = with_extents(c.g, {1, 2, 9, 5});
      },
      {"k.extent(2)", "10", "got 9"});
  refuse({forward, step}, [](call& c) { c.out = with_extents(c.out, {1, 4, 9, 6}); }, {"out.extent(2)", "got 9"});
}

TEST_CASE("slots without data, with strided last axes, or with outputs that overlap themselves are refused") {
  all_refuse([](call& c) { c.q = view<const float, 4>(nullptr, {1, 4, 10, 8}); }, {"q", "null"});
  all_refuse([](call& c) { c.s = view<const float, 4>(nullptr, {1, 2, 10, 5}); }, {"s", "null"});
  all_refuse([](call& c) { c.g = view<const float, 4>(nullptr, {1, 2, 10, 5}); }, {"g", "null"});
  all_refuse([](call& c) { c.g = view<const float, 4>(c.g.data(), {1, 2, 10, 5}, {0, 0, 0, 2}); }, {"g", "stride 1"});
  refuse({backward}, [](call& c) { c.scores = view<const float, 4>(nullptr, {1, 4, 10, 5}); }, {"scores", "null"});
  refuse({backward}, [](call& c) { c.ds = view<float, 4>(nullptr, {1, 2, 10, 5}); }, {"ds", "null"});
  refuse({backward}, [](call& c) { c.dg = view<float, 4>(c.dg.data(), {1, 2, 10, 5}, {0, 0, 5, 1}); },
         {"dg", "broadcast"});
  refuse({step}, [](call& c) { c.values = {}; }, {"slot_values", "null"});
  refuse({step}, [](call& c) { c.keys = view<float, 4>(c.keys.data(), {1, 2, 8, 5}, {0, 0, 5, 1}); },
         {"slot_keys", "broadcast"});
}

TEST_CASE("scales that are no finite numbers, and chunks of no token, are refused for slots") {
  all_refuse([](call& c) { c.forward.scale = c.backward.scale = c.step.scale = std::nan(""); },
             {"options.scale", "finite"});
  refuse({forward, backward}, [](call& c) { c.forward.chunk = c.backward.chunk = 0; },
         {"options.chunk", "at least 1", "got 0"});
}

TEST_CASE("slots given by halves, or of other extents, are refused") {
  refuse({forward, backward}, [](call& c) { c.forward.initial_keys = c.backward.initial_keys = {}; },
         {"options.initial_keys", "one of them"});
  refuse({forward, backward}, [](call& c) { c.forward.initial_values = c.backward.initial_values = {}; },
         {"options.initial_values", "one of them"});
  refuse({forward}, [](call& c) { c.forward.final_values = {}; }, {"options.final_values", "one of them"});
  refuse({backward}, [](call& c) { c.backward.dinitial_keys = {}; }, {"options.dinitial_keys", "one of them"});
  refuse({backward}, [](call& c) { c.backward.dfinal_values = {}; }, {"options.dfinal_values", "one of them"});
  refuse({forward, backward},
         [](call& c) {
           c.forward.initial_keys = c.backward.initial_keys = with_extents(c.forward.initial_keys, {1, 2, 5, 8});
         },
         {"options.initial_keys.extent(2)", "8", "got 5"});
  refuse({forward}, [](call& c) { c.forward.final_values = with_extents(c.forward.final_values, {1, 1, 5, 6}); },
         {"options.final_values.extent(1)", "2", "got 1"});
  refuse({backward}, [](call& c) { c.backward.dinitial_keys = with_extents(c.backward.dinitial_keys, {1, 2, 8, 4}); },
         {"options.dinitial_keys.extent(3)", "5", "got 4"});
  refuse({step}, [](call& c) { c.keys = with_extents(c.keys, {1, 2, 5, 8}); }, {"slot_keys.extent(2)", "8", "got 5"});
  refuse({step}, [](call& c) { c.values = with_extents(c.values, {1, 1, 5, 6}); },
         {"slot_values.extent(1)", "2", "got 1"});
}

TEST_CASE("scores and gradients of slots of other extents are refused") {
  refuse({forward}, [](call& c) { c.forward.scores = view<float, 4>(c.p.scores.data(), {1, 4, 10, 4}); },
         {"options.scores.extent(3)", "5", "got 4"});
  refuse({backward}, [](call& c) { c.scores = with_extents(c.scores, {1, 2, 10, 5}); },
         {"scores.extent(1)", "4", "got 2"});
  refuse({backward}, [](call& c) { c.dout = with_extents(c.dout, {1, 4, 9, 6}); }, {"dout.extent(2)", "got 9"});
  refuse({backward}, [](call& c) { c.dq = with_extents(c.dq, {1, 4, 10, 7}); }, {"dq.extent(3)", "8", "got 7"});
  refuse({backward}, [](call& c) { c.ds = with_extents(c.ds, {1, 2, 9, 5}); }, {"ds.extent(2)", "10", "got 9"});
  refuse({backward}, [](call& c) { c.dg = with_extents(c.dg, {1, 2, 10, 4}); }, {"dg.extent(3)", "5", "got 4"});
}

TEST_CASE("bad offsets of packed slots are refused") {
  static const std::vector<std::int32_t> late{1, 10}, falling{0, 8, 6, 10}, short_of{0, 9}, two{0, 4, 10};
  refuse({forward, backward}, [](call& c) { c.forward.cu_seqlens = c.backward.cu_seqlens = late; },
         {"options.cu_seqlens", "start at 0", "got 1"});
  refuse({forward, backward}, [](call& c) { c.forward.cu_seqlens = c.backward.cu_seqlens = falling; },
         {"options.cu_seqlens", "not decrease", "got 6"});
  refuse({forward, backward}, [](call& c) { c.forward.cu_seqlens = c.backward.cu_seqlens = short_of; },
         {"options.cu_seqlens", "got 9"});
  refuse({forward, backward}, [](call& c) { c.forward.cu_seqlens = c.backward.cu_seqlens = two; },
         {"options.initial_keys.extent(0)", "2", "got 1"});
}

TEST_CASE("outputs of slots that overlap an input or each other are refused") {
  refuse({forward, step}, [](call& c) { c.s = view<const float, 4>(c.out.data(), {1, 2, 10, 5}); }, {"out", "overlap"});
  refuse({forward}, [](call& c) { c.forward.scores = view<float, 4>(c.out.data(), {1, 4, 10, 5}); },
         {"options.scores", "overlap"});
  refuse({forward}, [](call& c) { c.forward.final_values = view<float, 4>(c.forward.final_keys.data(), {1, 2, 5, 6}); },
         {"options.final_values", "overlap"});
  refuse({forward},
         [](call& c) {
           c.forward.initial_keys = view<const float, 4>(c.forward.final_keys.data() + 5, {1, 2, 8, 5}, {0, 0, 1, 1});
         },
         {"options.final_keys", "options.initial_keys"});
  refuse({backward}, [](call& c) { c.dg = c.ds; }, {"dg", "overlap"});
  refuse({backward}, [](call& c) { c.dv = with_extents(c.dk, {1, 2, 10, 6}); }, {"dv", "overlap"});
  refuse({backward}, [](call& c) { c.backward.dfinal_keys = c.backward.dinitial_keys; },
         {"options.dinitial_keys", "overlap"});
  refuse({step}, [](call& c) { c.values = with_extents(c.keys, {1, 2, 5, 6}); }, {"slot_values", "overlap"});
  refuse({step}, [](call& c) { c.g = view<const float, 4>(c.keys.data(), {1, 2, 10, 5}, {0, 0, 0, 1}); },
         {"slot_keys", "overlap"});
}

TEST_CASE("scratch that is too small for slots is refused") {
  static std::vector<unsigned char> memory(64);
  refuse({forward, backward}, [](call& c) { c.forward.scratch = c.backward.scratch = {memory.data(), 64}; },
         {"options.scratch", "bytes", "got 64"});
}

TEST_CASE("no token leaves the slots, and the gradients by them, unchanged") {
  const index_t none = 0;
  slot_backward_problem<float> p({1, 4, 2, none, 8, 6, 5});
  solve<float>(p, with_slots(p));
  CHECK(same_bits<float, 4>(p.final_keys, p.initial_keys));
  CHECK(same_bits<float, 4>(p.final_values, p.initial_values));
  CHECK(same_bits<float, 4>(p.dinitial_keys, p.dfinal_keys));
  CHECK(same_bits<float, 4>(p.dinitial_values, p.dfinal_values));
}
