#include "ops/linear/gated_backward.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

using namespace linear_test;
using support::with_extents;

namespace {

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({1, 4, 2, 10, 8, 6}) {
    q = p.q;
    k = p.k;
    v = p.v;
    feature_gates = p.feature_gates;
    token_gates = p.token_gates;
    dout = p.dout;
    dq = p.dq;
    dk = p.dk;
    dv = p.dv;
    dfeature_gates = p.dfeature_gates;
    dtoken_gates = p.dtoken_gates;
    options.initial_state = p.initial_state;
    options.dinitial_state = p.dinitial_state;
    options.dfinal_state = p.dfinal_state;
  }

  backward_problem<float> p;
  view<const float, 4> q, k, v, feature_gates, dout;
  view<const float, 3> token_gates;
  view<float, 4> dq, dk, dv, dfeature_gates;
  view<float, 3> dtoken_gates;
  recurrence_backward_options<float> options;
};

void solve(const call& c, gates kind) {
  if (kind == gates::feature)
    heed::gated_linear_backward(c.q, c.k, c.v, c.feature_gates, c.dout, c.dq, c.dk, c.dv, c.dfeature_gates, c.options);
  else
    heed::gated_linear_backward(c.q, c.k, c.v, c.token_gates, c.dout, c.dq, c.dk, c.dv, c.dtoken_gates, c.options);
}

/// The call must throw, say all of `parts` and that it is gated_linear_backward, and write nothing.
void refuses(void (*spoil)(call&), const std::vector<std::string>& parts,
             std::initializer_list<gates> kinds = {gates::feature, gates::token}) {
  for (const gates kind : kinds) {
    CAPTURE(static_cast<int>(kind));
    call c;
    spoil(c);
    support::check_refusal("gated_linear_backward", parts, [&] { solve(c, kind); });
    const auto untouched = [](const auto& t) {
      return std::all_of(t.begin(), t.end(), [](float x) { return std::isnan(x); });
    };
    CHECK((untouched(c.p.dq) && untouched(c.p.dk) && untouched(c.p.dv)));
    CHECK((untouched(c.p.dfeature_gates) && untouched(c.p.dtoken_gates) && untouched(c.p.dinitial_state)));
  }
}

}  // namespace

TEST_CASE("the legal gradients of this file are legal") {
  for (const gates kind : gate_kinds) {
    call c;
    CHECK_NOTHROW(solve(c, kind));
  }
}

TEST_CASE("gradients of extents that do not fit each other are refused") {
  refuses([](call& c) { c.k = with_extents(c.k, {1, 3, 5, 8}); }, {"k.extent(1)", "divisor of H = 4", "got 3"});
  refuses([](call& c) { c.k = with_extents(c.k, {1, 2, 9, 8}); }, {"k.extent(2)", "10", "got 9"});
  refuses([](call& c) { c.k = with_extents(c.k, {1, 2, 10, 7}); }, {"k.extent(3)", "8", "got 7"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 1, 10, 6}); }, {"v.extent(1)", "2", "got 1"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 2, 10, 5}); }, {"v.extent(3)", "6", "got 5"});
  refuses([](call& c) { c.dout = with_extents(c.dout, {1, 4, 9, 6}); }, {"dout.extent(2)", "10", "got 9"});
  refuses([](call& c) { c.dout = with_extents(c.dout, {1, 2, 10, 6}); }, {"dout.extent(1)", "4", "got 2"});
  refuses([](call& c) { c.dq = with_extents(c.dq, {1, 4, 10, 7}); }, {"dq.extent(3)", "8", "got 7"});
  refuses([](call& c) { c.dk = with_extents(c.dk, {1, 1, 10, 8}); }, {"dk.extent(1)", "2", "got 1"});
  refuses([](call& c) { c.dv = with_extents(c.dv, {1, 2, 9, 6}); }, {"dv.extent(2)", "10", "got 9"});
  refuses([](call& c) { c.q = with_extents(c.q, {1, 4, -1, 8}); }, {"q.extent(2)", "got -1"});
  refuses(
      [](call& c) {
        c.feature_gates = with_extents(c.feature_gates, {1, 2, 9, 8});
        c.token_gates = with_extents(c.token_gates, {1, 2, 9});
      },
      {"g.extent(2)", "10", "got 9"});
  refuses(
      [](call& c) {
        c.dfeature_gates = with_extents(c.dfeature_gates, {1, 1, 10, 8});
        c.dtoken_gates = with_extents(c.dtoken_gates, {1, 1, 10});
      },
      {"dg.extent(1)", "2", "got 1"});
}

TEST_CASE("gradients without memory, with strided last axes, or that overlap themselves are refused") {
  refuses([](call& c) { c.dout = view<const float, 4>(nullptr, {1, 4, 10, 6}); }, {"dout", "null"});
  refuses([](call& c) { c.dq = view<float, 4>(nullptr, {1, 4, 10, 8}); }, {"dq", "null"});
  refuses([](call& c) { c.dk = view<float, 4>(nullptr, {1, 2, 10, 8}); }, {"dk", "null"});
  refuses([](call& c) { c.dv = view<float, 4>(nullptr, {1, 2, 10, 6}); }, {"dv", "null"});
  refuses(
      [](call& c) {
        c.feature_gates = view<const float, 4>(nullptr, {1, 2, 10, 8});
        c.token_gates = view<const float, 3>(nullptr, {1, 2, 10});
      },
      {"g", "null"});
  refuses(
      [](call& c) {
        c.dfeature_gates = view<float, 4>(nullptr, {1, 2, 10, 8});
        c.dtoken_gates = view<float, 3>(nullptr, {1, 2, 10});
      },
      {"dg", "null"});
  refuses([](call& c) { c.dout = view<const float, 4>(c.dout.data(), {1, 4, 10, 6}, {0, 0, 0, 2}); },
          {"dout", "stride 1", "got 2"});
  refuses([](call& c) { c.dk = view<float, 4>(c.dk.data(), {1, 2, 10, 8}, {0, 8, 0, 1}); }, {"dk", "broadcast"});
  refuses([](call& c) { c.dq = view<float, 4>(c.dq.data(), {1, 4, 10, 8}, {0, 4, 16, 1}); }, {"dq", "distinct"});
  refuses(
      [](call& c) {
        c.dfeature_gates = view<float, 4>(c.dfeature_gates.data(), {1, 2, 10, 8}, {0, 0, 8, 1});
        c.dtoken_gates = view<float, 3>(c.dtoken_gates.data(), {1, 2, 10}, {0, 0, 1});
      },
      {"dg", "broadcast"});
}

TEST_CASE("scales, chunks and states of gradients that are no good are refused") {
  refuses([](call& c) { c.options.scale = std::nan(""); }, {"options.scale", "finite"});
  refuses([](call& c) { c.options.scale = std::numeric_limits<double>::infinity(); }, {"options.scale", "finite"});
  refuses([](call& c) { c.options.chunk = 0; }, {"options.chunk", "at least 1", "got 0"});
  refuses([](call& c) { c.options.initial_state = with_extents(c.options.initial_state, {1, 2, 6, 8}); },
          {"options.initial_state.extent(2)", "8", "got 6"});
  refuses([](call& c) { c.options.dinitial_state = with_extents(c.options.dinitial_state, {1, 1, 8, 6}); },
          {"options.dinitial_state.extent(1)", "2", "got 1"});
  refuses([](call& c) { c.options.dfinal_state = with_extents(c.options.dfinal_state, {1, 2, 8, 5}); },
          {"options.dfinal_state.extent(3)", "6", "got 5"});
}

TEST_CASE("bad offsets of packed gradients are refused") {
  static const std::vector<std::int32_t> late{1, 10}, falling{0, 8, 6, 10}, short_of{0, 9}, two{0, 4, 10};
  refuses([](call& c) { c.options.cu_seqlens = late; }, {"options.cu_seqlens", "start at 0", "got 1"});
  refuses([](call& c) { c.options.cu_seqlens = falling; }, {"options.cu_seqlens", "not decrease", "got 6"});
  refuses([](call& c) { c.options.cu_seqlens = short_of; }, {"options.cu_seqlens", "got 9"});
  refuses([](call& c) { c.options.cu_seqlens = two; }, {"options.initial_state.extent(0)", "2", "got 1"});
}

TEST_CASE("gradients that overlap an input or each other are refused") {
  refuses([](call& c) { c.dq = view<float, 4>(const_cast<float*>(c.q.data()), {1, 4, 10, 8}); }, {"dq", "overlap"});
  refuses([](call& c) { c.dv = with_extents(c.dk, {1, 2, 10, 6}); }, {"dv", "overlap"});
  refuses([](call& c) { c.dout = view<const float, 4>(c.dq.data(), {1, 4, 10, 6}); }, {"dq", "overlap"});
  refuses(
      [](call& c) {
        c.dfeature_gates = with_extents(c.dk, {1, 2, 10, 8});
        c.dtoken_gates = view<float, 3>(c.dk.data(), {1, 2, 10});
      },
      {"dg", "overlap"});
  refuses([](call& c) { c.options.dinitial_state = with_extents(c.dq, {1, 2, 8, 6}); },
          {"options.dinitial_state", "overlap"});
  refuses([](call& c) { c.options.dfinal_state = c.options.dinitial_state; }, {"options.dinitial_state", "overlap"});
}

TEST_CASE("scratch that is too small for gradients is refused") {
  static std::vector<unsigned char> memory(64);
  refuses([](call& c) { c.options.scratch = {memory.data(), 64}; }, {"options.scratch", "bytes", "got 64"});
}

TEST_CASE("gradients of empty tensors are legal: that of a state passes unchanged") {
  call c;
  const view<const float, 4> none(nullptr, {1, 4, 0, 8}), keys(nullptr, {1, 2, 0, 8}), values(nullptr, {1, 2, 0, 6});
  heed::gated_linear_backward(none, keys, values, keys, view<const float, 4>(nullptr, {1, 4, 0, 6}),
                              view<float, 4>(nullptr, {1, 4, 0, 8}), view<float, 4>(nullptr, {1, 2, 0, 8}),
                              view<float, 4>(nullptr, {1, 2, 0, 6}), view<float, 4>(nullptr, {1, 2, 0, 8}), c.options);
  CHECK(same_bits<float, 4>(c.p.dinitial_state, c.p.dfinal_state));
}
