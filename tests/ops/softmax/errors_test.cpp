#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace softmax_test;
using support::with_extents;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// A legal call, to be spoiled in one place.
struct call {
  call() : p({1, 4, 2, 10, 20, 8, 6}) {
    q = p.q;
    k = p.k;
    v = p.v;
    out = p.out;
    options.lse = p.lse;
  }

  problem<float> p;
  view<const float, 4> q, k, v;
  view<float, 4> out;
  softmax_options<float> options;
};

/// The call must throw, say all of `parts` and that it is softmax_forward, and write nothing.
void refuses(const std::function<void(call&)>& spoil, const std::vector<std::string>& parts) {
  call c;
  spoil(c);
  support::check_refusal("softmax_forward", parts, [&] { heed::softmax_forward(c.q, c.k, c.v, c.out, c.options); });
  const auto untouched = [](float x) { return std::isnan(x); };
  CHECK(std::all_of(c.p.out.begin(), c.p.out.end(), untouched));
  CHECK(std::all_of(c.p.lse.begin(), c.p.lse.end(), untouched));
}

}  // namespace

TEST_CASE("the legal call of this file is legal") {
  call c;
  CHECK_NOTHROW(heed::softmax_forward(c.q, c.k, c.v, c.out, c.options));
}

TEST_CASE("extents that do not fit each other are refused") {
  refuses([](call& c) { c.k = with_extents(c.k, {1, 3, 10, 8}); }, {"k.extent(1)", "divisor of H = 4", "got 3"});
  refuses([](call& c) { c.k = with_extents(c.k, {1, 0, 20, 8}); }, {"k.extent(1)", "got 0"});
  refuses([](call& c) { c.k = with_extents(c.k, {1, 2, 20, 7}); }, {"k.extent(3)", "8", "got 7"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 2, 19, 6}); }, {"v.extent(2)", "20", "got 19"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 1, 20, 6}); }, {"v.extent(1)", "2", "got 1"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 2, 20, 5}); }, {"v.extent(3)", "6", "got 5"});
  refuses([](call& c) { c.k = with_extents(c.k, {2, 2, 5, 8}); }, {"k.extent(0)", "1", "got 2"});
  refuses([](call& c) { c.v = with_extents(c.v, {2, 2, 10, 6}); }, {"v.extent(0)", "1", "got 2"});
  refuses([](call& c) { c.out = with_extents(c.out, {1, 4, 9, 6}); }, {"out.extent(2)", "10", "got 9"});
  refuses([](call& c) { c.out = with_extents(c.out, {1, 2, 10, 6}); }, {"out.extent(1)", "4", "got 2"});
  refuses([](call& c) { c.out = with_extents(c.out, {2, 4, 5, 6}); }, {"out.extent(0)", "1", "got 2"});
}

TEST_CASE("extents that are negative, or zero for D and E, are refused") {
  refuses([](call& c) { c.q = with_extents(c.q, {1, 4, -1, 8}); }, {"q.extent(2)", "got -1"});
  refuses([](call& c) { c.k = with_extents(c.k, {1, 2, -20, 8}); }, {"k.extent(2)", "got -20"});
  refuses([](call& c) { c.v = with_extents(c.v, {1, 2, 20, -6}); }, {"v.extent(3)", "got -6"});
  refuses(
      [](call& c) {
        c.q = with_extents(c.q, {1, 4, 10, 0});
        c.k = with_extents(c.k, {1, 2, 20, 0});
      },
      {"q.extent(3)", "at least 1", "got 0"});
  refuses(
      [](call& c) {
        c.v = with_extents(c.v, {1, 2, 20, 0});
        c.out = with_extents(c.out, {1, 4, 10, 0});
      },
      {"out.extent(3)", "at least 1", "got 0"});
}

TEST_CASE("missing data and strided last axes are refused") {
  refuses([](call& c) { c.q = view<const float, 4>(nullptr, {1, 4, 10, 8}); }, {"q", "null"});
  refuses([](call& c) { c.k = view<const float, 4>(nullptr, {1, 2, 20, 8}); }, {"k", "null"});
  refuses([](call& c) { c.v = view<const float, 4>(nullptr, {1, 2, 20, 6}); }, {"v", "null"});
  refuses([](call& c) { c.out = view<float, 4>(nullptr, {1, 4, 10, 6}); }, {"out", "null"});
  const auto strided = [](auto data, const index_t(&e)[4]) {
    return view<std::remove_pointer_t<decltype(data)>, 4>(data, e, {0, 0, 0, 2});
  };
  refuses([&](call& c) { c.q = strided(c.q.data(), {1, 4, 10, 8}); }, {"q", "stride 1", "got 2"});
  refuses([&](call& c) { c.k = strided(c.k.data(), {1, 2, 20, 8}); }, {"k", "stride 1", "got 2"});
  refuses([&](call& c) { c.v = strided(c.v.data(), {1, 2, 20, 6}); }, {"v", "stride 1", "got 2"});
  refuses([&](call& c) { c.out = strided(c.out.data(), {1, 4, 10, 6}); }, {"out", "stride 1", "got 2"});
  refuses([](call& c) { c.out = view<float, 4>(c.out.data(), {1, 4, 10, 6}, {0, 6, 0, 1}); }, {"out", "broadcast"});
}

TEST_CASE("scale and softcap that are no finite numbers, or negative caps, are refused") {
  for (const double bad : {double(infinity), -double(infinity), double(not_a_number)}) {
    refuses([bad](call& c) { c.options.scale = bad; }, {"options.scale", "finite"});
    refuses([bad](call& c) { c.options.softcap = bad; }, {"options.softcap", "finite"});
  }
  refuses([](call& c) { c.options.softcap = -1; }, {"options.softcap", "at least 0", "got -1"});
}

TEST_CASE("a bias that does not broadcast is refused") {
  static const std::vector<float> memory(4000);
  const auto bias = [](const index_t(&e)[4]) { return view<const float, 4>(memory.data(), e); };
  refuses([&](call& c) { c.options.bias = bias({2, 4, 10, 20}); }, {"options.bias.extent(0)", "1", "got 2"});
  refuses([&](call& c) { c.options.bias = bias({1, 2, 10, 20}); }, {"options.bias.extent(1)", "1 or 4", "got 2"});
  refuses([&](call& c) { c.options.bias = bias({1, 4, 9, 20}); }, {"options.bias.extent(2)", "1 or 10", "got 9"});
  refuses([&](call& c) { c.options.bias = bias({1, 4, 10, 10}); }, {"options.bias.extent(3)", "1 or 20", "got 10"});
  refuses([&](call& c) { c.options.bias = view<const float, 4>(memory.data(), {1, 1, 10, 20}, {0, 0, 1, 10}); },
          {"options.bias", "stride 1", "got 10"});
}

TEST_CASE("a sink that is NaN, +inf or of another extent is refused") {
  static const std::array<float, 4> nan{0, not_a_number, 0, 0}, inf{0, 0, 0, infinity};
  refuses([](call& c) { c.options.sink = view<const float, 1>(nan.data(), {4}); }, {"options.sink", "nan"});
  refuses([](call& c) { c.options.sink = view<const float, 1>(inf.data(), {4}); }, {"options.sink", "inf"});
  refuses([](call& c) { c.options.sink = view<const float, 1>(inf.data(), {3}); }, {"options.sink", "4", "got 3"});
}

TEST_CASE("an lse of other extents, or broadcast, is refused") {
  refuses([](call& c) { c.options.lse = view<float, 3>(c.p.lse.data(), {1, 4, 9}); }, {"options.lse", "10", "got 9"});
  refuses([](call& c) { c.options.lse = view<float, 3>(c.p.lse.data(), {1, 2, 10}); }, {"options.lse", "4", "got 2"});
  refuses([](call& c) { c.options.lse = view<float, 3>(c.p.lse.data(), {1, 4, 10}, {0, 0, 1}); },
          {"options.lse", "broadcast"});
  refuses([](call& c) { c.options.lse = view<float, 3>(c.p.lse.data(), {1, 4, 10}, {40, 3, 1}); },
          {"options.lse", "distinct"});
}

TEST_CASE("windows below -1 and positions beyond int are refused") {
  refuses([](call& c) { c.options.window_left = -2; }, {"options.window_left", "at least -1", "got -2"});
  refuses([](call& c) { c.options.window_right = -7; }, {"options.window_right", "at least -1", "got -7"});
  refuses([](call& c) { c.options.q_offset = index_t(1) << 40; }, {"options.q_offset", "got 1099511627776"});
  refuses([](call& c) { c.options.q_offset = -(index_t(1) << 40); }, {"options.q_offset", "got -1099511627776"});
  refuses([](call& c) { c.options.kv_offset = std::numeric_limits<index_t>::max(); }, {"options.kv_offset"});
  refuses([](call& c) { c.options.kv_offset = std::numeric_limits<index_t>::min(); }, {"options.kv_offset"});
  refuses([](call& c) { c.options.q_offset = std::numeric_limits<index_t>::max(); }, {"options.q_offset"});
}

TEST_CASE("bad offsets of a packed batch are refused") {
  using offsets = std::vector<std::int32_t>;
  static const offsets q{0, 4, 10}, k{0, 20, 20}, late{1, 4, 10}, falling{0, 8, 6}, past_q{0, 4, 11}, past_k{0, 4, 21},
      few{0, 10}, none;
  static const std::vector<float> memory(200);
  const auto packed = [](const offsets& cu_q, const offsets& cu_k) {
    return [&cu_q, &cu_k](call& c) {
      c.options.cu_seqlens_q = cu_q;
      c.options.cu_seqlens_k = cu_k;
    };
  };
  refuses(packed(late, k), {"options.cu_seqlens_q", "start at 0", "got 1"});
  refuses(packed(q, late), {"options.cu_seqlens_k", "start at 0", "got 1"});
  refuses(packed(falling, k), {"options.cu_seqlens_q", "not decrease", "got 6"});
  refuses(packed(q, falling), {"options.cu_seqlens_k", "not decrease", "got 6"});
  refuses(packed(past_q, k), {"options.cu_seqlens_q", "10", "got 11"});
  refuses(packed(q, past_k), {"options.cu_seqlens_k", "20", "got 21"});
  refuses(packed(q, few), {"options.cu_seqlens_k", "got 2"});
  refuses([](call& c) { c.options.cu_seqlens_q = q; }, {"options.cu_seqlens_k", "none"});
  refuses([](call& c) { c.options.cu_seqlens_k = k; }, {"options.cu_seqlens_q", "none"});
  refuses(
      [&](call& c) {
        packed(q, k)(c);
        c.options.bias = view<const float, 4>(memory.data(), {1, 1, 10, 20});
      },
      {"options.bias", "none"});
  refuses(
      [&](call& c) {
        packed(q, k)(c);
        c.q = with_extents(c.q, {2, 4, 5, 8});
        c.k = with_extents(c.k, {2, 2, 10, 8});
        c.v = with_extents(c.v, {2, 2, 10, 6});
        c.out = with_extents(c.out, {2, 4, 5, 6});
        c.options.lse = {};
      },
      {"q.extent(0)", "1", "got 2"});
}

TEST_CASE("outputs that overlap an input or each other are refused") {
  refuses([](call& c) { c.q = view<const float, 4>(c.out.data() + 10, {1, 4, 10, 8}, {0, 6, 0, 1}); },
          {"out", "overlap"});
  refuses([](call& c) { c.k = view<const float, 4>(c.out.data(), {1, 2, 20, 8}, {0, 0, 0, 1}); }, {"out", "overlap"});
  refuses([](call& c) { c.v = view<const float, 4>(c.out.data() + 239, {1, 2, 20, 6}, {0, 0, 0, 1}); },
          {"out", "overlap"});
  refuses([](call& c) { c.options.bias = view<const float, 4>(c.out.data(), {1, 1, 10, 20}); }, {"out", "overlap"});
  refuses([](call& c) { c.options.lse = view<float, 3>(c.out.data(), {1, 4, 10}); }, {"options.lse", "overlap"});
  refuses([](call& c) { c.q = view<const float, 4>(c.p.lse.data(), {1, 4, 10, 8}, {0, 0, 0, 1}); },
          {"options.lse", "overlap"});
}

TEST_CASE("scratch that is too small is refused") {
  static std::vector<unsigned char> memory(64);
  refuses([](call& c) { c.options.scratch = {memory.data(), 64}; }, {"options.scratch", "bytes", "got 64"});
}

TEST_CASE("empty tensors are legal, whatever their pointers") {
  heed::softmax_forward(view<const float, 4>(nullptr, {1, 4, 0, 8}), view<const float, 4>(nullptr, {1, 2, 0, 8}),
                        view<const float, 4>(nullptr, {1, 2, 0, 6}), view<float, 4>(nullptr, {1, 4, 0, 6}));
  heed::softmax_forward(view<const float, 4>(nullptr, {0, 4, 10, 8}), view<const float, 4>(nullptr, {0, 2, 20, 8}),
                        view<const float, 4>(nullptr, {0, 2, 20, 6}), view<float, 4>(nullptr, {0, 4, 10, 6}));
  call c;
  heed::softmax_forward(c.q, view<const float, 4>(nullptr, {1, 2, 0, 8}), view<const float, 4>(nullptr, {1, 2, 0, 6}),
                        c.out, c.options);
  CHECK(std::all_of(c.p.out.begin(), c.p.out.end(), [](float x) { return x == 0; }));
  CHECK(std::all_of(c.p.lse.begin(), c.p.lse.end(), [](float x) { return x == -infinity; }));
}
