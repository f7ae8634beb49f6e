#include "ops/linear/gated_step.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <string>
#include <vector>

using namespace linear_test;
using support::with_extents;

namespace {

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({2, 4, 2, 3, 8, 6}) {
    q = p.q;
    k = p.k;
    v = p.v;
    feature_gates = p.feature_gates;
    token_gates = p.token_gates;
    out = p.out;
    state = p.final_state;
  }

  problem<float> p;
  view<const float, 4> q, k, v, feature_gates;
  view<const float, 3> token_gates;
  view<float, 4> out, state;
  recurrence_step_options<float> options;
};

void solve(const call& c, gates kind) {
  if (kind == gates::feature)
    heed::gated_linear_step(c.q, c.k, c.v, c.feature_gates, c.out, c.state, c.options);
  else
    heed::gated_linear_step(c.q, c.k, c.v, c.token_gates, c.out, c.state, c.options);
}

/// The call must throw, say all of `parts` and that it is gated_linear_step, and write nothing.
void refuses(void (*spoil)(call&), const std::vector<std::string>& parts) {
  for (const gates kind : gate_kinds) {
    call c;
    spoil(c);
    support::check_refusal("gated_linear_step", parts, [&] { solve(c, kind); });
    const auto untouched = [](float x) { return std::isnan(x); };
    CHECK(std::all_of(c.p.out.begin(), c.p.out.end(), untouched));
    CHECK(std::all_of(c.p.final_state.begin(), c.p.final_state.end(), untouched));
  }
}

}  // namespace

TEST_CASE("the legal steps of this file are legal, no token and no sequence among them") {
  for (const gates kind : gate_kinds) {
    call c;
    CHECK_NOTHROW(solve(c, kind));
    call none;
    none.p.final_state = none.p.initial_state;
    none.state = none.p.final_state;
    none.q = view<const float, 4>(nullptr, {2, 4, 0, 8});
    none.k = none.feature_gates = view<const float, 4>(nullptr, {2, 2, 0, 8});
    none.v = view<const float, 4>(nullptr, {2, 2, 0, 6});
    none.token_gates = view<const float, 3>(nullptr, {2, 2, 0});
    none.out = view<float, 4>(nullptr, {2, 4, 0, 6});
    CHECK_NOTHROW(solve(none, kind));
    CHECK(same_bits<float, 4>(none.p.final_state, none.p.initial_state));
  }
  heed::gated_linear_step(view<const float, 4>(nullptr, {0, 4, 1, 8}), view<const float, 4>(nullptr, {0, 2, 1, 8}),
                          view<const float, 4>(nullptr, {0, 2, 1, 6}), view<const float, 3>(nullptr, {0, 2, 1}),
                          view<float, 4>(nullptr, {0, 4, 1, 6}), view<float, 4>(nullptr, {0, 2, 8, 6}));
}

TEST_CASE("steps of extents that do not fit each other are refused") {
  refuses([](call& c) { c.k = with_extents(c.k, {2, 2, 2, 8}); }, {".extent(2)", "got"});
  refuses([](call& c) { c.k = with_extents(c.k, {2, 3, 2, 8}); }, {"k.extent(1)", "divisor of H = 4", "got 3"});
  refuses([](call& c) { c.v = with_extents(c.v, {2, 2, 3, 5}); }, {"v.extent(3)", "6", "got 5"});
  refuses([](call& c) { c.out = with_extents(c.out, {2, 4, 2, 6}); }, {"out.extent(2)", "3", "got 2"});
  refuses(
      [](call& c) {
        c.feature_gates = with_extents(c.feature_gates, {2, 1, 3, 8});
        c.token_gates = with_extents(c.token_gates, {2, 1, 3});
      },
      {"g.extent(1)", "2", "got 1"});
  refuses(
      [](call& c) {
        c.k = with_extents(c.k, {2, 2, 2, 8});
        c.v = with_extents(c.v, {2, 2, 2, 6});
        c.feature_gates = with_extents(c.feature_gates, {2, 2, 2, 8});
        c.token_gates = with_extents(c.token_gates, {2, 2, 2});
      },
      {"k.extent(2)", "3", "got 2"});
}

TEST_CASE("steps without a state, or with one of other extents, are refused") {
  refuses([](call& c) { c.state = {}; }, {"state", "null"});
  refuses([](call& c) { c.state = view<float, 4>(nullptr, {2, 2, 8, 6}); }, {"state", "null"});
  refuses([](call& c) { c.state = with_extents(c.state, {1, 2, 8, 6}); }, {"state.extent(0)", "2", "got 1"});
  refuses([](call& c) { c.state = with_extents(c.state, {2, 4, 4, 6}); }, {"state.extent(1)", "2", "got 4"});
  refuses([](call& c) { c.state = with_extents(c.state, {2, 2, 6, 8}); }, {"state.extent(2)", "8", "got 6"});
  refuses([](call& c) { c.state = view<float, 4>(c.state.data(), {2, 2, 8, 6}, {96, 48, 0, 1}); },
          {"state", "broadcast"});
  refuses([](call& c) { c.state = view<float, 4>(c.state.data(), {2, 2, 8, 6}, {96, 48, 1, 8}); },
          {"state", "stride 1", "got 8"});
}

TEST_CASE("steps that write over what they read are refused") {
  refuses([](call& c) { c.q = view<const float, 4>(c.out.data(), {2, 4, 3, 8}, {0, 0, 0, 1}); }, {"out", "overlap"});
  refuses([](call& c) { c.out = view<float, 4>(c.state.data(), {2, 4, 3, 6}); }, {"state", "overlap"});
  refuses([](call& c) { c.k = view<const float, 4>(c.state.data(), {2, 2, 3, 8}); }, {"state", "overlap"});
}

TEST_CASE("steps with a scale that is no finite number are refused") {
  refuses([](call& c) { c.options.scale = std::nan(""); }, {"options.scale", "finite"});
}
