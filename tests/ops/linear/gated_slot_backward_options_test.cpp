// Chunks, splits, packed batches and identities of gradients of Gated Slot Attention.
#include "ops/linear/gated_slot_backward.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"

#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

gated_slot_options<float> forward_into(tensor<float, 4>& keys, tensor<float, 4>& values,
                                       const slot_backward_problem<float>& p, view<float, 4> scores) {
  return {.initial_keys = p.initial_keys,
          .initial_values = p.initial_values,
          .final_keys = keys,
          .final_values = values,
          .scores = scores};
}

/// Gradients of tokens [begin, end), whose scores are there.
void solve_tokens(slot_backward_problem<float>& p, index_t begin, index_t end,
                  const gated_slot_backward_options<float>& options) {
  const auto in = [&](const auto& t) { return t.all().slice(2, begin, end); };
  const auto out = [&](auto& t) { return t.all().slice(2, begin, end); };
  heed::gated_slot_backward(in(p.q), in(p.k), in(p.v), in(p.s), in(p.g), in(p.scores), in(p.dout), out(p.dq), out(p.dk),
                            out(p.dv), out(p.ds), out(p.dg), options);
}

}  // namespace

TEST_CASE("chunks of any size give the same gradients of slots") {
  for (const index_t N : {0, 1, 2, 15, 16, 17, 63, 64, 65, 200})
    for (const index_t chunk : {index_t(1), index_t(3), index_t(16), index_t(64), N + 5, index_t(1) << 40})
      for (const double tau : {0.1, 16.0}) {
        CAPTURE(N, chunk, tau);
        slot_backward_problem<float> p({2, 4, 2, N, 20, 12, 18}, tau);
        CHECK(error_of<float>(p, with_slots(p, chunk)) <= 1);
      }
}

TEST_CASE("gradients of final slots hand on what later pieces of a sequence ask for") {
  const index_t N = 130;
  for (const index_t cut : {index_t(0), index_t(1), index_t(64), index_t(70), N}) {
    CAPTURE(cut);
    slot_backward_problem<float> p({2, 4, 2, N, 17, 9, 12});
    solve<float>(p, with_slots(p));
    const reference::gated_slot_gradients expected = gradients_of<float>(p, with_slots(p));

    const auto first = [cut](const auto& t) { return t.all().slice(2, 0, cut); };
    const auto& all = std::as_const(p);
    tensor<float, 4> out({2, 4, cut, 9}), keys({2, 2, 17, 12}), values({2, 2, 12, 9}), dkeys({2, 2, 17, 12}),
        dvalues({2, 2, 12, 9});
    heed::gated_slot_forward(first(all.q), first(all.k), first(all.v), first(all.s), first(all.g), out,
                             forward_into(keys, values, p, {}));
    solve_tokens(p, cut, N,
                 {.initial_keys = keys,
                  .initial_values = values,
                  .dinitial_keys = dkeys,
                  .dinitial_values = dvalues,
                  .dfinal_keys = p.dfinal_keys,
                  .dfinal_values = p.dfinal_values});
    solve_tokens(p, 0, cut,
                 {.initial_keys = p.initial_keys,
                  .initial_values = p.initial_values,
                  .dinitial_keys = p.dinitial_keys,
                  .dinitial_values = p.dinitial_values,
                  .dfinal_keys = dkeys,
                  .dfinal_values = dvalues});
    CHECK(error(p, expected) <= 1);
  }
}

TEST_CASE("gradients of packed sequences of slots are those of calls of their own, bit for bit") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const bool slots_given : {false, true}) {
    CAPTURE(slots_given);
    const slot_shape s{1, 4, 2, 230, 12, 11, 10};
    slot_backward_problem<float> p(s, 4, 1, strengths::tied, 6), alone(s, 4, 1, strengths::tied, 6);
    gated_slot_backward_options<float> options;
    if (slots_given) options = with_slots(p);
    options.cu_seqlens = cu;
    CHECK(error_of<float>(p, options) <= 1);
    alone.scores = p.scores;
    for (index_t r = 0; r < 6; ++r) {
      const auto slots = [r](auto& t) { return t.all().slice(0, r, r + 1); };
      gated_slot_backward_options<float> one;
      if (slots_given) {
        one.initial_keys = slots(alone.initial_keys);
        one.initial_values = slots(alone.initial_values);
        one.dfinal_keys = slots(alone.dfinal_keys);
        one.dfinal_values = slots(alone.dfinal_values);
      }
      one.dinitial_keys = slots(alone.dinitial_keys);
      one.dinitial_values = slots(alone.dinitial_values);
      const auto n = static_cast<std::size_t>(r);
      solve_tokens(alone, cu[n], cu[n + 1], one);
    }
    CHECK(same_gradients(p, alone));
  }
}

TEST_CASE("gradients of shared kv heads and slots are sums over those of repeated ones") {
  slot_backward_problem<double> shared({2, 6, 2, 100, 20, 12, 9}), repeated({2, 6, 6, 100, 20, 12, 9});
  repeated.q = shared.q;
  repeated.dout = shared.dout;
  using base = slot_problem<double>;
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 6; ++h)
      for (tensor<double, 4> base::* const t :
           {&base::k, &base::v, &base::s, &base::g, &base::initial_keys, &base::initial_values})
        support::copy_into<double, 2>((shared.*t).all()[b][h / 3], (repeated.*t).all()[b][h]);
  for (slot_backward_problem<double>* p : {&shared, &repeated})
    solve<double>(*p, {.initial_keys = p->initial_keys, .initial_values = p->initial_values});
  const auto sums = [](const tensor<double, 4>& t) { return reference::sum_of_query_heads(t, 2); };
  CHECK(error<double>(shared.dq, repeated.dq) <= 1);
  CHECK(error<double>(shared.dk, sums(repeated.dk)) <= 1);
  CHECK(error<double>(shared.dv, sums(repeated.dv)) <= 1);
  CHECK(error<double>(shared.ds, sums(repeated.ds)) <= 1);
  CHECK(error<double>(shared.dg, sums(repeated.dg)) <= 1);
  CHECK(error<double>(shared.dinitial_keys, sums(repeated.dinitial_keys)) <= 1);
  CHECK(error<double>(shared.dinitial_values, sums(repeated.dinitial_values)) <= 1);
}

TEST_CASE("gates of 0 and of 1e-30 among others lose no digit of the gradients of slots") {
  for (const float extreme : {-infinity, -69.0f, -104.0f, -20.0f, -1e-30f, -1e30f})
    for (const double share : {0.02, 0.5, 1.0})
      for (const index_t chunk : {1, 16, 64, 200}) {
        CAPTURE(extreme, share, chunk);
        slot_backward_problem<float> p({1, 4, 2, 150, 12, 20, 33}, 16);
        std::bernoulli_distribution chosen(share);
        for (float& g : p.g)
          if (chosen(p.random)) g = extreme;
        CHECK(error_of<float>(p, with_slots(p, chunk)) <= 1);
      }
}

TEST_CASE("with one slot the query does not matter, and has no gradient") {
  slot_backward_problem<float> p({1, 2, 1, 70, 12, 10, 1});
  solve<float>(p, {.initial_keys = p.initial_keys, .initial_values = p.initial_values});
  for (const float x : p.dq) CHECK(x == 0);
  for (const float x : p.dk) CHECK(x == 0);
}

TEST_CASE("gradients of 65536 tokens of slots stay within the bound of short sequences") {
  const index_t N = support::small_grid() ? 4096 : 65536;
  for (const double tau : {1.0, 16.0}) {
    CAPTURE(tau);
    slot_backward_problem<float> p({1, 2, 1, N, 8, 5, 6}, tau);
    CHECK(error_of<float>(p, with_slots(p)) <= 1);
  }
}
