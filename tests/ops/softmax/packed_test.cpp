#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"

#include <heed/mod/masks.hpp>

#include <cstdint>
#include <vector>

using namespace softmax_test;

namespace {

struct batch {
  std::vector<std::int64_t> q, k;  // offsets
};

batch random_batch(support::random_engine& random, index_t sequences) {
  batch offsets{{0}, {0}};
  for (index_t s = 0; s < sequences; ++s) {
    // Lengths around those of a tile, and empty sequences of every kind.
    const auto length = [&random] { return random() % 4 == 0 ? 0 : support::draw(random, 1, 150); };
    offsets.q.push_back(offsets.q.back() + length());
    offsets.k.push_back(offsets.k.back() + length());
  }
  return offsets;
}

template <class S>
problem<S> packed_problem(const batch& offsets, index_t spare_rows) {
  return problem<S>({1, 4, 2, offsets.q.back() + spare_rows, offsets.k.back() + spare_rows, 16, 12});
}

/// Every sequence by itself, into the same places.
template <class S, class... Mods>
void solve_one_by_one(problem<S>& p, const batch& offsets, softmax_options<S> options, const Mods&... mods) {
  for (std::size_t s = 0; s + 1 < offsets.q.size(); ++s) {
    const auto rows = [](auto&& t, const std::vector<std::int64_t>& cu, std::size_t i) {
      return t.all().slice(2, cu[i], cu[i + 1]);
    };
    options.lse = rows(p.lse, offsets.q, s);
    heed::softmax_forward(rows(p.q, offsets.q, s), rows(p.k, offsets.k, s), rows(p.v, offsets.k, s),
                          rows(p.out, offsets.q, s), options, mods...);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a packed batch equals its sequences by themselves, bit for bit", "", float, heed::bfloat16) {
  support::random_engine random(31);
  for (int round = 0; round < 6; ++round) {
    const batch offsets = random_batch(random, support::draw(random, 1, 8));
    for (const index_t right : {-1, 0, 5}) {
      auto together = packed_problem<TestType>(offsets, 3), apart = packed_problem<TestType>(offsets, 3);
      softmax_options<TestType> options{.window_right = right};
      solve_one_by_one(apart, offsets, options);
      options.lse = together.lse;
      options.cu_seqlens_q = offsets.q;
      options.cu_seqlens_k = offsets.k;
      heed::softmax_forward(together.q, together.k, together.v, together.out, options);
      CAPTURE(round, right);
      // Rows past the last sequence are untouched in both: full of NaN.
      CHECK(same_result(together, apart));
      const auto expected =
          reference::softmax<TestType>(together.q, together.k, together.v, arguments_of<TestType>(options));
      CHECK(worst_error(together, expected) <= 1);
      for (index_t i = offsets.q.back(); i < together.lse.extent(2); ++i) CHECK(std::isnan(together.lse(0, 1, i)));
    }
  }
}

TEST_CASE("masks and mods of a packed batch see positions within a sequence, and its number as b") {
  support::random_engine random(32);
  const auto mask = [](auto at) { return at.q - at.kv >= -(at.b % 3) && at.kv % (at.b + 2) != 1; };
  const auto score = [](auto s, auto at) { return s - 0.05f * (at.b + 1) * heed::to_real(s, at.q - at.kv); };
  for (int round = 0; round < 4; ++round) {
    const batch offsets = random_batch(random, 6);
    auto p = packed_problem<float>(offsets, 0);
    CAPTURE(round);
    CHECK(error_of<float>(p, {.window_left = 60, .cu_seqlens_q = offsets.q, .cu_seqlens_k = offsets.k}, 1, mask,
                          score) <= 1);
  }
}

TEST_CASE("q_offset, kv_offset and sink of a packed batch hold for every sequence") {
  const batch offsets{{0, 5, 75, 75, 180}, {0, 40, 41, 60, 200}};
  auto p = packed_problem<float>(offsets, 0);
  const auto sink = support::normal_tensor<float, 1>({4}, p.random);
  CHECK(error_of<float>(p, {.sink = sink,
                            .window_left = 30,
                            .window_right = 0,
                            .q_offset = 12,
                            .kv_offset = 3,
                            .cu_seqlens_q = offsets.q,
                            .cu_seqlens_k = offsets.k}) <= 1);
}

TEST_CASE("offsets may be 32 or 64 bit, from a container or a view") {
  const batch offsets{{0, 20, 20, 90}, {0, 33, 50, 120}};
  const std::vector<std::int32_t> q32(offsets.q.begin(), offsets.q.end()), k32(offsets.k.begin(), offsets.k.end());
  auto wide = packed_problem<float>(offsets, 2), narrow = packed_problem<float>(offsets, 2);
  heed::softmax_forward(wide.q, wide.k, wide.v, wide.out,
                        {.lse = wide.lse, .cu_seqlens_q = offsets.q, .cu_seqlens_k = offsets.k});
  heed::softmax_forward(
      narrow.q, narrow.k, narrow.v, narrow.out,
      {.lse = narrow.lse, .cu_seqlens_q = q32, .cu_seqlens_k = view<const std::int32_t, 1>(k32.data(), {4})});
  CHECK(same_result(wide, narrow));
}

TEST_CASE("a packed batch without sequences, or of empty ones only, writes nothing") {
  for (const auto& offsets : {batch{{0}, {0}}, batch{{0, 0, 0}, {0, 5, 9}}}) {
    auto p = packed_problem<float>(offsets, 4);
    heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .cu_seqlens_q = offsets.q, .cu_seqlens_k = offsets.k});
    CHECK(std::all_of(p.out.begin(), p.out.end(), [](float x) { return std::isnan(x); }));
    CHECK(std::all_of(p.lse.begin(), p.lse.end(), [](float x) { return std::isnan(x); }));
  }
}

TEST_CASE("queries of a sequence without keys get zeros and -inf") {
  const batch offsets{{0, 30, 100}, {0, 0, 20}};
  auto p = packed_problem<float>(offsets, 0);
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .cu_seqlens_q = offsets.q, .cu_seqlens_k = offsets.k});
  for (index_t i = 0; i < 30; ++i) {
    CHECK(p.lse(0, 3, i) == -std::numeric_limits<float>::infinity());
    CHECK(p.out(0, 3, i, 11) == 0);
  }
}
