// Chunks, splits and packed batches of Gated Slot Attention.
#include "ops/linear/gated_slot.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

using namespace linear_test;

namespace {

/// Calls gated_slot_forward for tokens [begin, end).
void solve_tokens(slot_problem<float>& p, index_t begin, index_t end, const gated_slot_options<float>& options) {
  const auto cut = [&](auto t) { return t.slice(2, begin, end); };
  heed::gated_slot_forward(cut(p.q.all()), cut(p.k.all()), cut(p.v.all()), cut(p.s.all()), cut(p.g.all()),
                           cut(p.out.all()), options);
}

gated_slot_options<float> from_initial(const slot_problem<float>& p, index_t chunk = 64) {
  return {.chunk = chunk, .initial_keys = p.initial_keys, .initial_values = p.initial_values};
}

/// The slots of p are those before a call, and after it.
gated_slot_options<float> in_place(slot_problem<float>& p, index_t chunk = 64) {
  return {.chunk = chunk,
          .initial_keys = p.initial_keys,
          .initial_values = p.initial_values,
          .final_keys = p.initial_keys,
          .final_values = p.initial_values};
}

bool same_as_whole(slot_problem<float>& p, const slot_problem<float>& whole) {
  return error<float>(p.out, reference::in_double(whole.out)) <= 1 &&
         error<float>(p.initial_keys, reference::in_double(whole.final_keys)) <= 1 &&
         error<float>(p.initial_values, reference::in_double(whole.final_values)) <= 1;
}

}  // namespace

TEST_CASE("chunks of slots of any size give the same result") {
  for (const index_t N : {0, 1, 2, 15, 16, 17, 63, 64, 65, 200})
    for (const index_t chunk : {index_t(1), index_t(3), index_t(16), index_t(64), N + 5, index_t(1) << 40})
      for (const double tau : {0.1, 16.0}) {
        CAPTURE(N, chunk, tau);
        slot_problem<float> p({2, 4, 2, N, 20, 12, 18}, tau);
        CHECK(error_of<float>(p, from_initial(p, chunk)) <= 1);
      }
}

TEST_CASE("a sequence of slots may be split anywhere, the slots handed on in place") {
  const index_t N = 130;
  for (const index_t at : {index_t(0), index_t(1), index_t(64), index_t(70), N - 1, N}) {
    CAPTURE(at);
    slot_problem<float> whole({2, 4, 2, N, 17, 9, 12}), split({2, 4, 2, N, 17, 9, 12});
    solve<float>(whole, from_initial(whole));
    solve_tokens(split, 0, at, in_place(split));
    solve_tokens(split, at, N, in_place(split));
    CHECK(same_as_whole(split, whole));
  }
}

TEST_CASE("a stream of ragged pieces is the whole sequence of slots") {
  const index_t N = 300;
  slot_problem<float> whole({1, 6, 3, N, 16, 24, 10}), stream({1, 6, 3, N, 16, 24, 10});
  solve<float>(whole, from_initial(whole));
  for (index_t begin = 0; begin < N;) {
    const index_t end = std::min(N, begin + support::draw(stream.random, 0, 40));
    solve_tokens(stream, begin, end, in_place(stream, 16));
    begin = end;
  }
  CHECK(same_as_whole(stream, whole));
}

TEST_CASE("packed sequences of slots are calls of their own, bit for bit") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const bool with_state : {false, true}) {
    CAPTURE(with_state);
    const slot_shape s{1, 4, 2, 230, 12, 11, 10};
    slot_problem<float> p(s, 4, 1, strengths::tied, 6), alone(s, 4, 1, strengths::tied, 6);
    gated_slot_options<float> options;
    if (with_state) options = from_initial(p);
    options.cu_seqlens = cu;
    CHECK(error_of<float>(p, options) <= 1);
    for (index_t r = 0; r < 6; ++r) {
      const auto slots = [r](auto& t) { return t.all().slice(0, r, r + 1); };
      gated_slot_options<float> one{.final_keys = slots(alone.final_keys), .final_values = slots(alone.final_values)};
      if (with_state) {
        one.initial_keys = slots(alone.initial_keys);
        one.initial_values = slots(alone.initial_values);
      }
      const auto n = static_cast<std::size_t>(r);
      one.scores = alone.scores.all().slice(2, cu[n], cu[n + 1]);
      solve_tokens(alone, cu[n], cu[n + 1], one);
    }
    CHECK(same_result(p, alone));
  }
}

TEST_CASE("final slots may be the memory of the initial ones") {
  for (const index_t N : {0, 1, 130}) {
    slot_problem<float> p({2, 4, 2, N, 20, 12, 8}), other({2, 4, 2, N, 20, 12, 8});
    solve<float>(p, from_initial(p));
    other.final_keys = other.initial_keys;
    other.final_values = other.initial_values;
    solve<float>(other, {.initial_keys = other.final_keys, .initial_values = other.final_values});
    CHECK(same_result(p, other));
  }
}

TEST_CASE("outputs that nobody asked for change no bit of the others") {
  slot_problem<float> p({2, 4, 2, 100, 20, 12, 8}), less({2, 4, 2, 100, 20, 12, 8});
  solve(p);
  heed::gated_slot_forward(less.q, less.k, less.v, less.s, less.g, less.out);
  CHECK(same_bits<float, 4>(less.out, p.out));
}

TEST_CASE("the scale of slots is that of the queries, 0 and negative ones included") {
  slot_problem<float> p({1, 2, 1, 70, 8, 8, 8});
  for (const double scale : {0.0, -2.0, 1.0}) CHECK(error_of<float>(p, {.scale = scale}) <= 1);
}

TEST_CASE("shared kv heads equal repeated ones, slots and all, bit for bit") {
  slot_problem<float> shared({2, 6, 2, 100, 20, 12, 9}), repeated({2, 6, 6, 100, 20, 12, 9});
  repeated.q = shared.q;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 6; ++h)
      for (tensor<float, 4> slot_problem<float>::* const t :
           {&slot_problem<float>::k, &slot_problem<float>::v, &slot_problem<float>::s, &slot_problem<float>::g})
        support::copy_into<float, 2>((shared.*t).all()[b][h / 3], (repeated.*t).all()[b][h]);
  solve(shared);
  solve(repeated);
  CHECK(same_bits<float, 4>(shared.out, repeated.out));
  CHECK(same_bits<float, 4>(shared.scores, repeated.scores));
  CHECK(same_bits<float, 2>(std::as_const(shared.final_keys).all()[1][1],
                            std::as_const(repeated.final_keys).all()[1][5]));
}
