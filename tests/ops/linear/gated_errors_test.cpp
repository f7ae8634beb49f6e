#include "ops/linear/gated.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace linear_test;
using support::with_extents;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({1, 4, 2, 10, 8, 6}) {
    q = p.q;
    k = p.k;
    v = p.v;
    feature_gates = p.feature_gates;
    token_gates = p.token_gates;
    out = p.out;
    options.initial_state = p.initial_state;
    options.final_state = p.final_state;
  }

  problem<float> p;
  view<const float, 4> q, k, v, feature_gates;
  view<const float, 3> token_gates;
  view<float, 4> out;
  recurrence_options<float> options;
};

void solve(const call& c, gates kind) {
  if (kind == gates::feature)
    heed::gated_linear_forward(c.q, c.k, c.v, c.feature_gates, c.out, c.options);
  else
    heed::gated_linear_forward(c.q, c.k, c.v, c.token_gates, c.out, c.options);
}

/// The call must throw, say all of `parts` and that it is gated_linear_forward, and write nothing.
void refuses(const std::function<void(call&)>& spoil, const std::vector<std::string>& parts,
             std::initializer_list<gates> kinds = {gates::feature, gates::token}) {
  for (const gates kind : kinds) {
    call c;
    spoil(c);
    support::check_refusal("gated_linear_forward", parts, [&] { solve(c, kind); });
    const auto untouched = [](float x) { return std::isnan(x); };
    CHECK(std::all_of(c.p.out.begin(), c.p.out.end(), untouched));
    CHECK(std::all_of(c.p.final_state.begin(), c.p.final_state.end(), untouched));
  }
}

}  // namespace

TEST_CASE("the legal calls of this file are legal") {
  for (const gates kind : gate_kinds) {
    call c;
    CHECK_NOTHROW(solve(c, kind));
  }
}

TEST_CASE("extents that do not fit each other are refused") {
  refuses([](call& c) { c.k = with_extents(c.k, {1, 3, 5, 8}); }, {"k.extent(1)", "divisor of H = 4", "got 3"});
  refuses([](call& c) { c.k = with_extents(c.k, {1, 2, 10, 7}); }, {"k.extent(3)", "8", "got 7"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 2, 9, 6}); }, {"v.extent(2)", "10", "got 9"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 1, 10, 6}); }, {"v.extent(1)", "2", "got 1"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 2, 10, 5}); }, {"v.extent(3)", "6", "got 5"});
  refuses([](call& c) { c.k = with_extents(c.k, {2, 2, 5, 8}); }, {"k.extent(0)", "1", "got 2"});
  refuses([](call& c) { c.out = with_extents(c.out, {1, 4, 9, 6}); }, {"out.extent(2)", "10", "got 9"});
  refuses([](call& c) { c.out = with_extents(c.out, {1, 2, 10, 6}); }, {"out.extent(1)", "4", "got 2"});
  refuses([](call& c) { c.q = with_extents(c.q, {1, 4, -1, 8}); }, {"q.extent(2)", "got -1"});
  refuses(
      [](call& c) {
        c.q = with_extents(c.q, {1, 4, 10, 0});
        c.k = with_extents(c.k, {1, 2, 10, 0});
      },
      {"q.extent(3)", "at least 1", "got 0"});
}

TEST_CASE("gates of other extents than the keys, or without data, are refused") {
  refuses(
      [](call& c) {
        c.feature_gates = with_extents(c.feature_gates, {1, 2, 9, 8});
        c.token_gates = with_extents(c.token_gates, {1, 2, 9});
      },
      {"g.extent(2)", "10", "got 9"});
  refuses(
      [](call& c) {
        c.feature_gates = with_extents(c.feature_gates, {1, 4, 5, 8});
        c.token_gates = with_extents(c.token_gates, {1, 4, 5});
      },
      {"g.extent(1)", "2", "got 4"});
  refuses([](call& c) { c.feature_gates = with_extents(c.feature_gates, {1, 2, 10, 6}); },
          {"g.extent(3)", "8", "got 6"}, {gates::feature});
  refuses(
      [](call& c) {
        c.feature_gates = view<const float, 4>(nullptr, {1, 2, 10, 8});
        c.token_gates = view<const float, 3>(nullptr, {1, 2, 10});
      },
      {"g", "null"});
  refuses([](call& c) { c.feature_gates = view<const float, 4>(c.feature_gates.data(), {1, 2, 10, 8}, {0, 0, 0, 2}); },
          {"g", "stride 1", "got 2"}, {gates::feature});
}

TEST_CASE("missing data, strided last axes and outputs that overlap themselves are refused") {
  refuses([](call& c) { c.q = view<const float, 4>(nullptr, {1, 4, 10, 8}); }, {"q", "null"});
  refuses([](call& c) { c.k = view<const float, 4>(nullptr, {1, 2, 10, 8}); }, {"k", "null"});
  refuses([](call& c) { c.v = view<const float, 4>(nullptr, {1, 2, 10, 6}); }, {"v", "null"});
  refuses([](call& c) { c.out = view<float, 4>(nullptr, {1, 4, 10, 6}); }, {"out", "null"});
  refuses([](call& c) { c.q = view<const float, 4>(c.q.data(), {1, 4, 10, 8}, {0, 0, 0, 2}); }, {"q", "stride 1"});
  refuses([](call& c) { c.v = view<const float, 4>(c.v.data(), {1, 2, 10, 6}, {0, 0, 0, 2}); }, {"v", "stride 1"});
  refuses([](call& c) { c.out = view<float, 4>(c.out.data(), {1, 4, 10, 6}, {0, 6, 0, 1}); }, {"out", "broadcast"});
}

TEST_CASE("scales that are no finite numbers, and chunks of no token, are refused") {
  for (const double bad : {infinity, -infinity, std::nan("")})
    refuses([bad](call& c) { c.options.scale = bad; }, {"options.scale", "finite"});
  refuses([](call& c) { c.options.chunk = 0; }, {"options.chunk", "at least 1", "got 0"});
  refuses([](call& c) { c.options.chunk = -3; }, {"options.chunk", "at least 1", "got -3"});
}

TEST_CASE("states of other extents are refused") {
  refuses([](call& c) { c.options.initial_state = with_extents(c.options.initial_state, {1, 2, 6, 8}); },
          {"options.initial_state.extent(2)", "8", "got 6"});
  refuses([](call& c) { c.options.final_state = with_extents(c.options.final_state, {1, 1, 8, 6}); },
          {"options.final_state.extent(1)", "2", "got 1"});
  refuses(
      [](call& c) { c.options.final_state = view<float, 4>(c.options.final_state.data(), {1, 2, 8, 6}, {0, 0, 6, 1}); },
      {"options.final_state", "broadcast"});
  refuses(
      [](call& c) {
        c.options.initial_state = view<const float, 4>(c.options.initial_state.data(), {1, 2, 8, 6}, {0, 48, 12, 2});
      },
      {"options.initial_state", "stride 1"});
}

TEST_CASE("positions without a key, and positions in reverse or in a packed batch, are refused") {
  static const std::vector<std::int32_t> cu{0, 10};
  refuses([](call& c) { c.options.q_offset = 1; }, {"options.q_offset", "at most", "got 1"});
  refuses([](call& c) { c.options.q_offset = std::numeric_limits<index_t>::max(); }, {"options.q_offset"});
  refuses(
      [](call& c) {
        c.options.reverse = true;
        c.options.q_offset = -1;
      },
      {"options.q_offset", "reverse", "got -1"});
  refuses(
      [](call& c) {
        c.options.cu_seqlens = cu;
        c.options.q_offset = -1;
      },
      {"options.q_offset", "packed", "got -1"});
}

TEST_CASE("bad offsets of a packed batch are refused") {
  using offsets = std::vector<std::int32_t>;
  static const offsets late{1, 4, 10}, falling{0, 8, 6, 10}, past{0, 4, 11}, short_of{0, 4, 9}, two{0, 4, 10},
      one{0, 10};
  const auto packed = [](const offsets& cu) { return [&cu](call& c) { c.options.cu_seqlens = cu; }; };
  refuses(packed(late), {"options.cu_seqlens", "start at 0", "got 1"});
  refuses(packed(falling), {"options.cu_seqlens", "not decrease", "got 6"});
  refuses(packed(past), {"options.cu_seqlens", "10", "got 11"});
  refuses(packed(short_of), {"options.cu_seqlens", "N", "got 9"});
  refuses(packed(two), {"options.initial_state.extent(0)", "2", "got 1"});
  refuses(
      [](call& c) {
        c.options.cu_seqlens = one;
        c.q = with_extents(c.q, {2, 4, 5, 8});
        c.k = with_extents(c.k, {2, 2, 5, 8});
        c.v = with_extents(c.v, {2, 2, 5, 6});
        c.feature_gates = with_extents(c.feature_gates, {2, 2, 5, 8});
        c.token_gates = with_extents(c.token_gates, {2, 2, 5});
        c.out = with_extents(c.out, {2, 4, 5, 6});
      },
      {"q.extent(0)", "1", "got 2"});
  refuses(
      [](call& c) {
        c.options.cu_seqlens = one;
        c.q = with_extents(c.q, {1, 4, 5, 8});
        c.out = with_extents(c.out, {1, 4, 5, 6});
      },
      {"q.extent(2)", "10", "got 5"});
}

TEST_CASE("outputs that overlap an input or each other are refused") {
  refuses([](call& c) { c.q = view<const float, 4>(c.out.data() + 10, {1, 4, 10, 8}, {0, 6, 0, 1}); },
          {"out", "overlap"});
  refuses([](call& c) { c.v = view<const float, 4>(c.out.data() + 239, {1, 2, 10, 6}, {0, 0, 0, 1}); },
          {"out", "overlap"});
  refuses(
      [](call& c) {
        c.feature_gates = view<const float, 4>(c.out.data(), {1, 2, 10, 8});
        c.token_gates = view<const float, 3>(c.out.data(), {1, 2, 10});
      },
      {"out", "overlap"});
  refuses([](call& c) { c.options.initial_state = view<const float, 4>(c.out.data(), {1, 2, 8, 6}); },
          {"out", "overlap"});
  refuses([](call& c) { c.options.final_state = view<float, 4>(c.out.data(), {1, 2, 8, 6}); },
          {"options.final_state", "overlap"});
  refuses([](call& c) { c.k = view<const float, 4>(c.options.final_state.data(), {1, 2, 10, 8}, {0, 0, 0, 1}); },
          {"options.final_state", "overlap"});
  // The memory of the initial state is fine, a part of it is not.
  refuses(
      [](call& c) {
        c.options.initial_state = view<const float, 4>(c.options.final_state.data() + 6, {1, 2, 8, 6}, {0, 0, 1, 1});
      },
      {"options.final_state", "options.initial_state"});
}

TEST_CASE("scratch that is too small is refused") {
  static std::vector<unsigned char> memory(64);
  refuses([](call& c) { c.options.scratch = {memory.data(), 64}; }, {"options.scratch", "bytes", "got 64"});
}

TEST_CASE("empty tensors are legal, whatever their pointers: a state passes unchanged") {
  call c;
  heed::gated_linear_forward(view<const float, 4>(nullptr, {1, 4, 0, 8}), view<const float, 4>(nullptr, {1, 2, 0, 8}),
                             view<const float, 4>(nullptr, {1, 2, 0, 6}), view<const float, 4>(nullptr, {1, 2, 0, 8}),
                             view<float, 4>(nullptr, {1, 4, 0, 6}), c.options);
  CHECK(same_bits<float, 4>(c.p.final_state, c.p.initial_state));
  c.options.initial_state = {};
  heed::gated_linear_forward(c.q, view<const float, 4>(nullptr, {1, 2, 0, 8}),
                             view<const float, 4>(nullptr, {1, 2, 0, 6}), view<const float, 3>(nullptr, {1, 2, 0}),
                             c.out, c.options);
  CHECK(std::all_of(c.p.out.begin(), c.p.out.end(), [](float x) { return x == 0; }));
  CHECK(std::all_of(c.p.final_state.begin(), c.p.final_state.end(), [](float x) { return x == 0; }));
  heed::gated_linear_forward(view<const float, 4>(nullptr, {0, 4, 10, 8}), view<const float, 4>(nullptr, {0, 2, 10, 8}),
                             view<const float, 4>(nullptr, {0, 2, 10, 6}), view<const float, 3>(nullptr, {0, 2, 10}),
                             view<float, 4>(nullptr, {0, 4, 10, 6}));
  // No head reads the state, which is written all the same.
  c.p.final_state.fill(support::quiet_nan<float>);
  heed::gated_linear_forward(view<const float, 4>(nullptr, {1, 0, 10, 8}), c.k, c.v, c.feature_gates,
                             view<float, 4>(nullptr, {1, 0, 10, 6}), {.final_state = c.p.final_state});
  CHECK(std::none_of(c.p.final_state.begin(), c.p.final_state.end(), [](float x) { return std::isnan(x); }));
}
