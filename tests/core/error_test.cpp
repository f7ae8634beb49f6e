#include "support/catch.hpp"
#include "support/grid.hpp"

#include <heed/core/error.hpp>

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

using heed::index_t;
using heed::view;
using heed::detail::checker;

namespace {

const checker check("softmax_forward");

/// The addresses of all bytes of a view, one by one.
template <class T, int Rank>
std::set<std::uintptr_t> addresses(const view<T, Rank>& v) {
  std::set<std::uintptr_t> bytes;
  if constexpr (Rank == 1) {
    for (index_t i = 0; i < v.extent(0); ++i)
      for (std::size_t byte = 0; byte < sizeof(T); ++byte)
        bytes.insert(reinterpret_cast<std::uintptr_t>(v.data() + i * v.stride(0)) + byte);
  } else {
    for (index_t i = 0; i < v.extent(0); ++i) bytes.merge(addresses(v[i]));
  }
  return bytes;
}

template <class A, class B>
bool share_bytes(const A& a, const B& b) {
  const auto x = addresses(a), y = addresses(b);
  return std::any_of(x.begin(), x.end(), [&](std::uintptr_t byte) { return y.count(byte) != 0; });
}

template <class A, class B>
bool found_overlap(const A& a, const B& b) {
  return !heed::detail::disjoint(a, b);
}

}  // namespace

TEST_CASE("errors are invalid_argument and say operator, argument, expected and got") {
  CHECK_THROWS_AS(check.require(false, "options.scale", "a finite number", 1.5), heed::invalid_argument);
  CHECK_THROWS_AS(check.require(false, "options.scale", "a finite number", 1.5), std::invalid_argument);
  CHECK_THROWS_WITH(check.require(false, "options.scale", "a finite number", 1.5),
                    "heed::softmax_forward: options.scale: expected a finite number, got 1.5");
  CHECK_THROWS_WITH(check.require(false, "n", "at least 0", -3),
                    "heed::softmax_forward: n: expected at least 0, got -3");
  CHECK_THROWS_WITH(check.require(false, "n", "less", index_t(1) << 40),
                    "heed::softmax_forward: n: expected less, got 1099511627776");
  CHECK_THROWS_WITH(check.require(false, "flag", "false", true),
                    "heed::softmax_forward: flag: expected false, got true");
  CHECK_NOTHROW(check.require(true, "n", "at least 0", -3));
}

TEST_CASE("a message too long is cut, not lost") {
  const std::string argument(5000, 'x');
  try {
    check.fail_with(argument.c_str(), "anything", "something");
  } catch (const heed::invalid_argument& error) {
    CHECK(std::string(error.what()).substr(0, 30) == "heed::softmax_forward: xxxxxxx");
    return;
  }
  FAIL("no exception");
}

TEST_CASE("an extent is checked against what it must equal") {
  float data[12] = {};
  const view<float, 2> v(data, {3, 4});
  CHECK_NOTHROW(check.extent(v, "v", 1, 4, "D"));
  CHECK_THROWS_WITH(check.extent(v, "v", 0, 5, "M, the extent of k"),
                    "heed::softmax_forward: v.extent(0): expected 5 (M, the extent of k), got 3");
}

TEST_CASE("a tensor must have extents, data and a contiguous last axis") {
  float data[16] = {};
  CHECK_NOTHROW(check.tensor(view<float, 2>(data, {3, 4}), "q"));
  CHECK_NOTHROW(check.tensor(view<float, 2>(data, {3, 1}, {4, 4}), "q"));
  CHECK_NOTHROW(check.tensor(view<float, 2>(data + 12, {4, 4}, {-4, 1}), "q"));
  CHECK_NOTHROW(check.tensor(view<float, 2>(data, {9, 4}, {0, 1}), "q"));
  CHECK_NOTHROW(check.tensor(view<float, 2>(nullptr, {0, 4}), "q"));
  CHECK_THROWS_WITH(check.tensor(view<float, 2>(data, {3, -1}), "q"),
                    "heed::softmax_forward: q.extent(1): expected at least 0, got -1");
  CHECK_THROWS_WITH(check.tensor(view<float, 2>(nullptr, {3, 4}), "q"),
                    "heed::softmax_forward: q: expected data, got a null pointer");
  CHECK_THROWS_WITH(check.tensor(view<float, 2>(data, {3, 4}, {1, 3}), "q"),
                    "heed::softmax_forward: q: expected a last axis of stride 1, got 3");
}

TEST_CASE("an output must have one place for each element") {
  float data[16] = {};
  CHECK_NOTHROW(check.output(view<float, 2>(data, {4, 4}), "out"));
  CHECK_NOTHROW(check.output(view<float, 2>(data, {1, 4}, {0, 1}), "out"));
  CHECK_NOTHROW(check.output(view<float, 2>(nullptr, {0, 4}, {0, 1}), "out"));
  CHECK_NOTHROW(check.output(view<float, 3>(data + 8, {2, 2, 4}, {4, -8, 1}), "out"));
  CHECK_THROWS_WITH(check.output(view<float, 2>(data, {2, 4}, {0, 1}), "out"),
                    "heed::softmax_forward: out: expected no broadcast axis in an output, got stride 0");
  CHECK_THROWS_WITH(
      check.output(view<float, 2>(data, {2, 4}, {2, 1}), "out"),
      "heed::softmax_forward: out: expected an output whose elements are distinct, got strides that make them overlap");
  CHECK_THROWS(check.output(view<float, 3>(data, {2, 2, 2}, {2, 2, 1}), "out"));
}

TEST_CASE("elements that share a place are found") {
  std::mt19937 random(7);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<index_t>(low, high)(random); };
  static char data[4000];
  int shared = 0, distinct = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const view<char, 3> v(data + 2000, {draw(0, 4), draw(1, 4), draw(1, 5)},
                          {draw(-20, 20), draw(-20, 20), draw(0, 5)});
    const bool truth = static_cast<index_t>(addresses(v).size()) == v.size();
    const bool answer = heed::detail::distinct_elements(v);
    if (answer) REQUIRE(truth);
    shared += !truth;
    distinct += answer;
  }
  CHECK(shared > 1000);
  CHECK(distinct > 1000);
}

TEST_CASE("tensors interleaved in one record per token do not overlap") {
  // A token of H query heads, G key and value heads and H output heads, in a batch with padding between its entries.
  const index_t B = 3, N = 5, H = 4, G = 2, D = 8, record = (2 * H + 2 * G) * D;
  for (const index_t padding : {0, 3}) {
    const index_t entry = N * record + padding;
    std::vector<float> buffer(static_cast<std::size_t>(B * entry));
    float* const base = buffer.data();
    const view<float, 4> q(base, {B, H, N, D}, {entry, D, record, 1});
    const view<float, 4> k(base + H * D, {B, G, N, D}, {entry, D, record, 1});
    const view<float, 4> v(base + (H + G) * D, {B, G, N, D}, {entry, D, record, 1});
    const view<float, 4> out(base + (H + 2 * G) * D, {B, H, N, D}, {entry, D, record, 1});
    CHECK_NOTHROW(check.no_overlap(out, "out", q, "q"));
    CHECK_NOTHROW(check.no_overlap(out, "out", k, "k"));
    CHECK_NOTHROW(check.no_overlap(out, "out", v, "v"));
    CHECK_NOTHROW(check.no_overlap(q, "q", v, "v"));
    CHECK_THROWS_WITH(check.no_overlap(out, "out", out, "q"),
                      "heed::softmax_forward: out: expected no overlap with q, got overlapping memory");
    // Shifted by one element, the last head of v reaches into the first of out.
    const view<float, 4> shifted(v.data() + 1, {B, G, N, D}, {entry, D, record, 1});
    CHECK_THROWS(check.no_overlap(out, "out", shifted, "v"));
    // The same rows backwards are still the same rows.
    const view<float, 4> reversed(q.data() + (N - 1) * record, {B, H, N, D}, {entry, D, -record, 1});
    CHECK_THROWS(check.no_overlap(reversed, "out", q, "q"));
    CHECK_NOTHROW(check.no_overlap(out, "out", reversed, "q"));
  }
}

TEST_CASE("odd and even rows, halves of features and single elements are told apart") {
  float data[64] = {};
  const view<float, 2> even(data, {4, 8}, {16, 1}), odd(data + 8, {4, 8}, {16, 1});
  CHECK_NOTHROW(check.no_overlap(even, "out", odd, "q"));
  const view<float, 2> left(data, {8, 4}, {8, 1}), right(data + 4, {8, 4}, {8, 1});
  CHECK_NOTHROW(check.no_overlap(left, "out", right, "q"));
  CHECK_THROWS(check.no_overlap(left, "out", view<float, 2>(data + 3, {8, 4}, {8, 1}), "q"));
  const view<const float, 2> one(data + 20, {100, 1}, {0, 1});
  CHECK_NOTHROW(check.no_overlap(left, "out", one, "q"));
  CHECK_THROWS(check.no_overlap(right, "out", one, "q"));
  CHECK_NOTHROW(check.no_overlap(left, "out", view<float, 1>(data, {0}), "lse"));
  CHECK_THROWS(check.no_overlap(left, "out", view<const char, 1>(reinterpret_cast<char*>(data) + 3, {1}), "bias"));
}

TEST_CASE("overlap is found exactly when two tensors share a byte") {
  std::mt19937 random(11);
  const auto draw = [&](index_t low, index_t high) {
    return std::uniform_int_distribution<index_t>(low, high)(random);
  };
  static float data[2000];
  int overlapping = 0, interleaved = 0, mistaken = 0;
  const int trials = support::small_grid() ? 2000 : 20000;
  for (int trial = 0; trial < 2 * trials; ++trial) {
    // Any strides at all, of different element sizes.
    const view<float, 3> a(data + draw(900, 1000), {draw(0, 4), draw(1, 4), draw(1, 6)},
                           {draw(-60, 60), draw(-60, 60), draw(0, 3)});
    const view<const std::uint16_t, 2> b(reinterpret_cast<std::uint16_t*>(data) + draw(1800, 2000),
                                         {draw(1, 5), draw(1, 9)}, {draw(-90, 90), draw(1, 3)});
    const bool truth = share_bytes(a, b);
    mistaken += found_overlap(a, b) != truth;
    mistaken += found_overlap(b, a) != truth;
    overlapping += truth;
  }
  for (int trial = 0; trial < trials; ++trial) {
    // Bytes, so that one may be all they share.
    char* const bytes = reinterpret_cast<char*>(data) + 4000;
    const view<char, 2> a(bytes, {draw(1, 5), draw(1, 6)}, {draw(-30, 30), draw(1, 3)});
    const view<const char, 2> b(bytes + draw(-60, 60), {draw(1, 5), draw(1, 6)}, {draw(-30, 30), draw(1, 3)});
    mistaken += found_overlap(a, b) != share_bytes(a, b);
  }
  for (int trial = 0; trial < trials; ++trial) {
    // Nested layouts as programs have them: blocks within records within entries.
    const index_t width = draw(1, 5), block = width + draw(0, 3), heads = draw(1, 3);
    const index_t record = 2 * heads * block + draw(0, 5), tokens = draw(1, 4), entry = tokens * record + draw(0, 3);
    const view<float, 4> a(data + draw(0, 2 * block), {draw(1, 3), heads, tokens, width}, {entry, block, record, 1});
    const view<float, 4> b(data + draw(0, record + block), {2, heads, tokens, width},
                           {entry, block, record * (trial % 3 == 0 ? -1 : 1), 1});
    const view<float, 4> moved(b.data() + (b.stride(2) < 0 ? (tokens - 1) * record : 0), {2, heads, tokens, width},
                               {entry, block, b.stride(2), 1});
    const bool truth = share_bytes(a, moved);
    mistaken += found_overlap(a, moved) != truth;
    overlapping += truth;
    interleaved += !truth;
  }
  CHECK(mistaken == 0);
  CHECK(overlapping > trials / 2);
  CHECK(interleaved > trials / 10);
}

TEST_CASE("overlap stays quick and on the safe side for strides without any order") {
  static char data[1 << 16];
  const view<char, 5> a(data, {30, 30, 30, 30, 1}, {601, 603, 607, 611, 1});
  const view<char, 5> b(data + 1, {30, 30, 30, 30, 1}, {599, 605, 609, 613, 1});
  CHECK(found_overlap(a, b));
}
