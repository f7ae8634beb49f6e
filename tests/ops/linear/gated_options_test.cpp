// Chunks, splits, offsets, directions and packed batches of gated linear attention.
#include "ops/linear/gated.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;

namespace {

/// Tokens [begin, end) of everything that has tokens.
struct part {
  view<const float, 4> q, k, v, feature_gates;
  view<const float, 3> token_gates;
  view<float, 4> out;
};
part tokens_of(problem<float>& p, index_t begin, index_t end) {
  const auto cut = [&](auto t) { return t.slice(2, begin, end); };
  return {cut(p.q.all()),           cut(p.k.all()),  cut(p.v.all()), cut(p.feature_gates.all()),
          cut(p.token_gates.all()), cut(p.out.all())};
}
void solve(const part& p, gates kind, const recurrence_options<float>& options) {
  if (kind == gates::feature)
    heed::gated_linear_forward(p.q, p.k, p.v, p.feature_gates, p.out, options);
  else
    heed::gated_linear_forward(p.q, p.k, p.v, p.token_gates, p.out, options);
}

}  // namespace

TEST_CASE("chunks of any size give the same result") {
  for (const gates kind : gate_kinds)
    for (const index_t N : {0, 1, 2, 15, 16, 17, 63, 64, 65, 200})
      for (const index_t chunk : {index_t(1), index_t(3), index_t(16), index_t(64), N + 5, index_t(1) << 40})
        for (const double tau : {0.1, 16.0}) {
          CAPTURE(static_cast<int>(kind), N, chunk, tau);
          problem<float> p({2, 4, 2, N, 20, 12}, tau);
          CHECK(error_of<float>(p, kind, {.chunk = chunk, .initial_state = p.initial_state}) <= 1);
        }
}

TEST_CASE("a sequence may be split anywhere, its state handed on in place") {
  const index_t N = 130;
  for (const gates kind : gate_kinds)
    for (const bool reverse : {false, true})
      for (const index_t cut : {index_t(0), index_t(1), index_t(64), index_t(70), N - 1, N}) {
        CAPTURE(static_cast<int>(kind), reverse, cut);
        problem<float> whole({2, 4, 2, N, 17, 9}), split({2, 4, 2, N, 17, 9});
        solve<float>(whole, kind, {.initial_state = whole.initial_state, .reverse = reverse});
        tensor<float, 4>& state = split.initial_state;
        const recurrence_options<float> options{.initial_state = state, .final_state = state, .reverse = reverse};
        const part first = tokens_of(split, 0, cut), second = tokens_of(split, cut, N);
        solve(reverse ? second : first, kind, options);
        solve(reverse ? first : second, kind, options);
        CHECK(error<float>(split.out, reference::in_double(whole.out)) <= 1);
        CHECK(error<float>(state, reference::in_double(whole.final_state)) <= 1);
      }
}

TEST_CASE("a stream of ragged pieces is the whole sequence") {
  const index_t N = 300;
  for (const gates kind : gate_kinds) {
    problem<float> whole({1, 6, 3, N, 16, 24}), stream({1, 6, 3, N, 16, 24});
    solve<float>(whole, kind, {.initial_state = whole.initial_state});
    tensor<float, 4>& state = stream.initial_state;
    for (index_t begin = 0; begin < N;) {
      const index_t end = std::min(N, begin + support::draw(stream.random, 0, 40));
      solve(tokens_of(stream, begin, end), kind, {.chunk = 16, .initial_state = state, .final_state = state});
      begin = end;
    }
    CHECK(error<float>(stream.out, reference::in_double(whole.out)) <= 1);
    CHECK(error<float>(state, reference::in_double(whole.final_state)) <= 1);
  }
}

TEST_CASE("queries may stand anywhere among the keys") {
  struct {
    index_t N, M;
    std::optional<index_t> offset;
  } const cases[] = {
      {5, 9, {}},  {1, 200, {}}, {70, 200, {}}, {200, 70, {}}, {9, 5, {}},
      {5, 200, 0}, {5, 200, 62}, {3, 3, -1},    {90, 90, -70}, {4, 0, {}},
      {0, 70, {}}, {5, 90, -7},  {64, 128, 1},  {4, 8, -4},    {5, 5, std::numeric_limits<index_t>::min()}};
  for (const gates kind : gate_kinds)
    for (const auto& [N, M, offset] : cases)
      for (const index_t chunk : {1, 16, 64}) {
        CAPTURE(static_cast<int>(kind), N, M, offset.value_or(-1000), chunk);
        problem<float> p({2, 4, 2, N, 10, 7, M});
        recurrence_options<float> options{.chunk = chunk, .initial_state = p.initial_state};
        if (offset) options.q_offset = *offset;
        CHECK(error_of<float>(p, kind, options) <= 1);
      }
}

TEST_CASE("reverse is the sequence read backwards") {
  for (const gates kind : gate_kinds)
    for (const index_t N : {1, 5, 64, 130}) {
      problem<float> p({2, 4, 2, N, 10, 7});
      CAPTURE(static_cast<int>(kind), N);
      CHECK(error_of<float>(p, kind, {.chunk = 48, .initial_state = p.initial_state, .reverse = true}) <= 1);
    }
}

TEST_CASE("packed sequences are calls of their own, bit for bit") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const gates kind : gate_kinds)
    for (const bool reverse : {false, true})
      for (const bool with_state : {false, true}) {
        CAPTURE(static_cast<int>(kind), reverse, with_state);
        problem<float> p({1, 4, 2, 230, 12, 11}, 4, 1, 6);
        recurrence_options<float> options{.cu_seqlens = cu, .reverse = reverse};
        if (with_state) options.initial_state = p.initial_state;
        CHECK(error_of<float>(p, kind, options) <= 1);

        problem<float> alone({1, 4, 2, 230, 12, 11}, 4, 1, 6);
        for (index_t s = 0; s < 6; ++s) {
          const auto state = [&](auto& t) { return t.all().slice(0, s, s + 1); };
          recurrence_options<float> one{.final_state = state(alone.final_state), .reverse = reverse};
          if (with_state) one.initial_state = state(alone.initial_state);
          const auto n = static_cast<std::size_t>(s);
          solve(tokens_of(alone, cu[n], cu[n + 1]), kind, one);
        }
        CHECK(same_result(p, alone));
      }
}

TEST_CASE("a packed batch of 64-bit offsets, or of no sequence, is one too") {
  problem<float> p({1, 2, 1, 40, 8, 8}, 4, 1, 2);
  const std::vector<std::int64_t> wide{0, 15, 40}, none{0};
  CHECK(error_of<float>(p, gates::feature, {.cu_seqlens = wide}) <= 1);
  problem<float> empty({1, 2, 1, 0, 8, 8});
  empty.final_state = tensor<float, 4>({0, 1, 8, 8});
  CHECK_NOTHROW(solve<float>(empty, gates::feature, {.cu_seqlens = none}));
}

TEST_CASE("the final state may be the memory of the initial one") {
  for (const gates kind : gate_kinds)
    for (const index_t N : {0, 1, 130}) {
      problem<float> p({2, 4, 2, N, 20, 12}), in_place({2, 4, 2, N, 20, 12});
      solve<float>(p, kind, {.initial_state = p.initial_state});
      in_place.final_state = in_place.initial_state;
      solve<float>(in_place, kind, {.initial_state = in_place.final_state});
      CHECK(same_result(p, in_place));
    }
}

TEST_CASE("the scale multiplies outputs and no states, 0 and negative ones included") {
  problem<float> p({1, 2, 1, 70, 8, 8});
  for (const double scale : {0.0, -2.0, 1.0}) CHECK(error_of<float>(p, gates::feature, {.scale = scale}) <= 1);
}

TEST_CASE("shared kv heads equal repeated ones, bit for bit") {
  for (const gates kind : gate_kinds) {
    problem<float> shared({2, 6, 2, 100, 20, 12}), repeated({2, 6, 6, 100, 20, 12});
    repeated.q = shared.q;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 6; ++h) {
        support::copy_into<float, 2>(shared.k.all()[b][h / 3], repeated.k.all()[b][h]);
        support::copy_into<float, 2>(shared.v.all()[b][h / 3], repeated.v.all()[b][h]);
        support::copy_into<float, 2>(shared.feature_gates.all()[b][h / 3], repeated.feature_gates.all()[b][h]);
        support::copy_into<float, 1>(shared.token_gates.all()[b][h / 3], repeated.token_gates.all()[b][h]);
      }
    solve(shared, kind);
    solve(repeated, kind);
    CHECK(same_bits<float, 4>(shared.out, repeated.out));
    for (index_t h = 0; h < 6; ++h)
      CHECK(same_bits<float, 2>(std::as_const(shared.final_state).all()[1][h / 3],
                                std::as_const(repeated.final_state).all()[1][h]));
  }
}

TEST_CASE("gates that are equal across features are gates of a token") {
  problem<float> p({2, 4, 2, 130, 20, 12}), other({2, 4, 2, 130, 20, 12});
  for (index_t i = 0; i < p.feature_gates.size(); ++i) p.feature_gates.data()[i] = p.token_gates.data()[i / 20];
  solve(p, gates::feature);
  solve(other, gates::token);
  CHECK(error<float>(p.out, reference::in_double(other.out)) <= 1);
  CHECK(error<float>(p.final_state, reference::in_double(other.final_state)) <= 1);
}
