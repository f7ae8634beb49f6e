// Chunks, splits, directions, packed batches and gates at the ends of their range, of gradients of gated linear
// attention.
#include "ops/linear/gated_backward.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"

#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Gradients of tokens [begin, end).
void solve_tokens(backward_problem<float>& p, gates kind, index_t begin, index_t end,
                  const recurrence_backward_options<float>& options) {
  const auto in = [&](const auto& t) { return t.all().slice(2, begin, end); };
  const auto out = [&](auto& t) { return t.all().slice(2, begin, end); };
  if (kind == gates::feature)
    heed::gated_linear_backward(in(p.q), in(p.k), in(p.v), in(p.feature_gates), in(p.dout), out(p.dq), out(p.dk),
                                out(p.dv), out(p.dfeature_gates), options);
  else
    heed::gated_linear_backward(in(p.q), in(p.k), in(p.v), in(p.token_gates), in(p.dout), out(p.dq), out(p.dk),
                                out(p.dv), out(p.dtoken_gates), options);
}

reference::recurrence_gradients definition_of_gradients(const backward_problem<float>& p, gates kind,
                                                        const recurrence_backward_options<float>& options) {
  return reference::scan_backward(definition<float>(p, kind, forward_options(options)), reference::in_double(p.dout),
                                  reference::in_double(options.dfinal_state));
}

template <class Gates>
void replace_some(Gates& gates, double share, float value, support::random_engine& random) {
  std::bernoulli_distribution chosen(share);
  for (float& g : gates)
    if (chosen(random)) g = value;
}

}  // namespace

TEST_CASE("chunks of any size give the same gradients") {
  for (const gates kind : gate_kinds)
    for (const index_t N : {0, 1, 2, 15, 16, 17, 63, 64, 65, 200})
      for (const index_t chunk : {index_t(1), index_t(3), index_t(16), index_t(64), N + 5, index_t(1) << 40})
        for (const double tau : {0.1, 16.0}) {
          CAPTURE(static_cast<int>(kind), N, chunk, tau);
          backward_problem<float> p({2, 4, 2, N, 20, 12}, tau);
          CHECK(error_of<float>(
                    p, kind, {.chunk = chunk, .initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
        }
}

TEST_CASE("the gradient of a final state hands on what later pieces of a sequence ask for") {
  const index_t N = 130;
  for (const gates kind : gate_kinds)
    for (const bool reverse : {false, true})
      for (const index_t cut : {index_t(0), index_t(1), index_t(64), index_t(70), N}) {
        CAPTURE(static_cast<int>(kind), reverse, cut);
        backward_problem<float> p({2, 4, 2, N, 17, 9});
        const recurrence_backward_options<float> whole{
            .initial_state = p.initial_state, .dfinal_state = p.dfinal_state, .reverse = reverse};
        const reference::recurrence_gradients expected = definition_of_gradients(p, kind, whole);

        // The state between both pieces, and its gradient.
        const auto cut_of = [&](const auto& t, bool second) {
          return second ? t.all().slice(2, cut, N) : t.all().slice(2, 0, cut);
        };
        const auto& all = std::as_const(p);
        tensor<float, 4> out({2, 4, reverse ? N - cut : cut, 9}), between({2, 2, 17, 9}), dbetween({2, 2, 17, 9});
        const recurrence_options<float> forward{
            .initial_state = p.initial_state, .final_state = between, .reverse = reverse};
        if (kind == gates::feature)
          heed::gated_linear_forward(cut_of(all.q, reverse), cut_of(all.k, reverse), cut_of(all.v, reverse),
                                     cut_of(all.feature_gates, reverse), out, forward);
        else
          heed::gated_linear_forward(cut_of(all.q, reverse), cut_of(all.k, reverse), cut_of(all.v, reverse),
                                     cut_of(all.token_gates, reverse), out, forward);
        solve_tokens(
            p, kind, reverse ? 0 : cut, reverse ? cut : N,
            {.initial_state = between, .dinitial_state = dbetween, .dfinal_state = p.dfinal_state, .reverse = reverse});
        solve_tokens(p, kind, reverse ? cut : 0, reverse ? N : cut,
                     {.initial_state = p.initial_state,
                      .dinitial_state = p.dinitial_state,
                      .dfinal_state = dbetween,
                      .reverse = reverse});
        CHECK(error(p, kind, expected) <= 1);
      }
}

TEST_CASE("gradients in reverse are those of the sequence read backwards") {
  for (const gates kind : gate_kinds)
    for (const index_t N : {1, 5, 64, 130}) {
      CAPTURE(static_cast<int>(kind), N);
      backward_problem<float> p({2, 4, 2, N, 10, 7});
      CHECK(error_of<float>(
                p, kind,
                {.chunk = 48, .initial_state = p.initial_state, .dfinal_state = p.dfinal_state, .reverse = true}) <= 1);
    }
}

TEST_CASE("gradients of packed sequences are those of calls of their own, bit for bit") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const gates kind : gate_kinds)
    for (const bool reverse : {false, true})
      for (const bool with_states : {false, true}) {
        CAPTURE(static_cast<int>(kind), reverse, with_states);
        const shape s{1, 4, 2, 230, 12, 11};
        backward_problem<float> p(s, 4, 1, 6), alone(s, 4, 1, 6);
        recurrence_backward_options<float> options{.cu_seqlens = cu, .reverse = reverse};
        if (with_states) {
          options.initial_state = p.initial_state;
          options.dfinal_state = p.dfinal_state;
        }
        CHECK(error_of<float>(p, kind, options) <= 1);
        for (index_t r = 0; r < 6; ++r) {
          const auto state = [r](auto& t) { return t.all().slice(0, r, r + 1); };
          recurrence_backward_options<float> one{.dinitial_state = state(alone.dinitial_state), .reverse = reverse};
          if (with_states) {
            one.initial_state = state(alone.initial_state);
            one.dfinal_state = state(alone.dfinal_state);
          }
          const auto n = static_cast<std::size_t>(r);
          solve_tokens(alone, kind, cu[n], cu[n + 1], one);
        }
        CHECK(same_gradients(p, alone));
      }
}

TEST_CASE("gradients of shared kv heads are sums over those of repeated ones") {
  for (const gates kind : gate_kinds) {
    backward_problem<double> shared({2, 6, 2, 100, 20, 12}), repeated({2, 6, 6, 100, 20, 12});
    repeated.q = shared.q;
    repeated.dout = shared.dout;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 6; ++h) {
        support::copy_into<double, 2>(shared.k.all()[b][h / 3], repeated.k.all()[b][h]);
        support::copy_into<double, 2>(shared.v.all()[b][h / 3], repeated.v.all()[b][h]);
        support::copy_into<double, 2>(shared.feature_gates.all()[b][h / 3], repeated.feature_gates.all()[b][h]);
        support::copy_into<double, 1>(shared.token_gates.all()[b][h / 3], repeated.token_gates.all()[b][h]);
        support::copy_into<double, 2>(shared.initial_state.all()[b][h / 3], repeated.initial_state.all()[b][h]);
      }
    solve<double>(shared, kind, {.initial_state = shared.initial_state});
    solve<double>(repeated, kind, {.initial_state = repeated.initial_state});
    const auto sums = [](const tensor<double, 4>& t) { return reference::sum_of_query_heads(t, 2); };
    CHECK(error<double>(shared.dq, repeated.dq) <= 1);
    CHECK(error<double>(shared.dk, sums(repeated.dk)) <= 1);
    CHECK(error<double>(shared.dv, sums(repeated.dv)) <= 1);
    CHECK(error<double>(shared.dinitial_state, sums(repeated.dinitial_state)) <= 1);
    if (kind == gates::feature) CHECK(error<double>(shared.dfeature_gates, sums(repeated.dfeature_gates)) <= 1);
  }
}

TEST_CASE("gates of 0 and of 1e-30 among others lose no digit of the gradients") {
  for (const gates kind : gate_kinds)
    for (const float extreme : {-infinity, -69.0f, -104.0f, -20.0f, -1e-30f, -1e30f})
      for (const double share : {0.02, 0.5, 1.0})
        for (const index_t chunk : {1, 16, 64, 200}) {
          CAPTURE(static_cast<int>(kind), extreme, share, chunk);
          backward_problem<float> p({1, 4, 2, 150, 33, 20}, 16);
          replace_some(p.feature_gates, share, extreme, p.random);
          replace_some(p.token_gates, share, extreme, p.random);
          CHECK(error_of<float>(
                    p, kind, {.chunk = chunk, .initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
        }
}

TEST_CASE("gradients of gates above 1 follow the formula") {
  for (const gates kind : gate_kinds) {
    backward_problem<float> p({1, 4, 2, 150, 33, 20});
    for (float& g : p.feature_gates) g = 0.1f + 0.2f * g;
    for (float& g : p.token_gates) g = 0.1f + 0.2f * g;
    CHECK(error_of<float>(p, kind, {.initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
  }
}

TEST_CASE("a gate of 0 has no gradient, and what it forgets none from later tokens") {
  for (const gates kind : gate_kinds) {
    backward_problem<float> p({1, 2, 1, 100, 12, 10});
    for (index_t d = 0; d < 12; ++d) p.feature_gates(0, 0, 70, d) = -infinity;
    p.token_gates(0, 0, 70) = -infinity;
    backward_problem<float> head = p;
    for (index_t i = 70; i < 100; ++i)
      for (index_t h = 0; h < 2; ++h)
        for (index_t e = 0; e < 10; ++e) head.dout(0, h, i, e) = 0;
    solve<float>(p, kind, {.initial_state = p.initial_state, .dfinal_state = p.dfinal_state});
    solve<float>(head, kind, {.initial_state = p.initial_state});
    const auto first = [](const tensor<float, 4>& t) { return t.all().slice(2, 0, 70); };
    CHECK(error<float>(first(p.dk), reference::in_double(first(head.dk)), 1e-4) <= 1);
    CHECK(error<float>(first(p.dv), reference::in_double(first(head.dv)), 1e-4) <= 1);
    CHECK(error<float>(p.dinitial_state, reference::in_double(head.dinitial_state), 1e-4) <= 1);
    if (kind == gates::feature)
      for (index_t d = 0; d < 12; ++d) CHECK(std::fabs(p.dfeature_gates(0, 0, 70, d)) < 1e-4f);
    else
      CHECK(std::fabs(p.dtoken_gates(0, 0, 70)) < 1e-4f);
  }
}

TEST_CASE("gradients of 65536 tokens stay within the bound of short sequences") {
  const index_t N = support::small_grid() ? 4096 : 65536;
  for (const gates kind : gate_kinds)
    for (const double tau : {0.5, 16.0}) {
      CAPTURE(static_cast<int>(kind), tau);
      backward_problem<float> p({1, 2, 1, N, 8, 5}, tau);
      CHECK(error_of<float>(p, kind, {.initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
    }
}
