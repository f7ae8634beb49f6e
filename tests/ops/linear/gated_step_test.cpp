#include "ops/linear/gated_step.hpp"
#include "ops/linear/grid.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <limits>

using namespace linear_test;

TEMPLATE_TEST_CASE("steps agree with the definition for every grouping and head size", "", float, double,
                   heed::bfloat16, heed::float16) {
  unsigned round = 0;
  for (const head_counts heads : {head_counts{1, 1}, {2, 2}, {4, 2}, {3, 1}, {5, 1}, {8, 1}, {16, 1}, {9, 1}})
    for (const index_t D : head_sizes)
      for (const index_t E : head_sizes) {
        if (support::small_grid() && ++round % 5 != 0) continue;
        const gates kind = gate_kinds[++round % 2];
        const index_t at_once = 1 + round % 3 * 2;
        problem<TestType> p({1 + round % 2, heads.heads, heads.groups, 7, D, E}, taus[round % 3], round);
        CAPTURE(heads.heads, heads.groups, D, E, static_cast<int>(kind), at_once);
        step_through<TestType>(p, kind, at_once);
        CHECK(step_error<TestType>(p, kind) <= 1);
      }
}

TEST_CASE("steps continue a chunked call, and a chunked call continues steps") {
  for (const gates kind : gate_kinds) {
    const index_t N = 150;
    problem<float> p({2, 4, 2, N, 20, 12});
    const auto forward = [&](index_t begin, index_t end) {
      const auto in = [&](const auto& t) { return t.all().slice(2, begin, end); };
      const recurrence_options<float> options{.initial_state = p.final_state, .final_state = p.final_state};
      if (kind == gates::feature)
        heed::gated_linear_forward(in(p.q), in(p.k), in(p.v), in(std::as_const(p.feature_gates)),
                                   p.out.all().slice(2, begin, end), options);
      else
        heed::gated_linear_forward(in(p.q), in(p.k), in(p.v), in(std::as_const(p.token_gates)),
                                   p.out.all().slice(2, begin, end), options);
    };
    p.final_state = p.initial_state;
    forward(0, 70);
    for (index_t t = 70; t < 90; ++t) step_on<heed::default_arch, float>(p, kind, t, t + 1);
    forward(90, N);
    CHECK(step_error<float>(p, kind) <= 1);
  }
}

TEST_CASE("several tokens a step equal as many steps, bit for bit") {
  for (const gates kind : gate_kinds) {
    problem<float> one({2, 6, 2, 12, 20, 12}), many({2, 6, 2, 12, 20, 12});
    step_through(one, kind, 1);
    for (const index_t at_once : {2, 5, 12, 100}) {
      step_through(many, kind, at_once);
      CHECK(same_result(one, many));
    }
  }
}

TEST_CASE("4096 steps stay within the bound of a short sequence") {
  for (const gates kind : gate_kinds)
    for (const double tau : {0.5, 16.0}) {
      CAPTURE(static_cast<int>(kind), tau);
      problem<float> p({1, 2, 1, support::small_grid() ? 512 : 4096, 12, 9}, tau);
      step_through(p, kind, 1);
      CHECK(step_error<float>(p, kind) <= 1);
    }
}

TEST_CASE("a step with a gate of 0 forgets all, however large it was") {
  for (const gates kind : gate_kinds) {
    problem<float> p({1, 4, 2, 3, 20, 12});
    p.feature_gates.fill(-std::numeric_limits<float>::infinity());
    p.token_gates.fill(-std::numeric_limits<float>::infinity());
    for (float& x : p.initial_state) x *= 1e30f;
    step_through(p, kind, 1);
    CHECK(step_error<float>(p, kind) <= 1);
  }
}

TEST_CASE("gates of 1e-30 and of 1 side by side lose no digit of a step") {
  for (const gates kind : gate_kinds) {
    problem<float> p({1, 4, 2, 8, 20, 12});
    for (index_t i = 0; i < p.feature_gates.size(); ++i) p.feature_gates.data()[i] = i % 3 == 0 ? -69.0f : 0.0f;
    for (index_t i = 0; i < p.token_gates.size(); ++i) p.token_gates.data()[i] = i % 3 == 0 ? -69.0f : 0.0f;
    step_through(p, kind, 1);
    CHECK(step_error<float>(p, kind) <= 1);
  }
}

TEST_CASE("the scale of a step multiplies outputs and no state") {
  for (const double scale : {0.0, -2.0, 1.0}) {
    problem<float> p({1, 4, 2, 3, 20, 12});
    step_through<float>(p, gates::feature, 1, {.scale = scale});
    CHECK(step_error<float>(p, gates::feature, {.scale = scale}) <= 1);
  }
}

TEST_CASE("steps are bit-equal in whatever order and by whatever worker tasks are run") {
  for (const shape& s : {shape{1, 1, 1, 3, 130, 200}, shape{3, 8, 2, 2, 33, 20}, shape{2, 4, 4, 1, 64, 64}})
    for (const gates kind : gate_kinds) {
      problem<float> alone(s);
      step_through<float>(alone, kind, s.N, {.executor = heed::serial()});
      support::for_each_executor([&](heed::executor_ref where, const char* name) {
        problem<float> p(s);
        step_through<float>(p, kind, s.N, {.executor = where});
        CAPTURE(name, where.concurrency, s.N, static_cast<int>(kind));
        CHECK(same_result(p, alone));
      });
    }
}

TEST_CASE("a sequence's step does not depend on its neighbors in the batch, bit for bit") {
  problem<float> p({3, 4, 2, 2, 20, 12});
  step_through(p, gates::feature, 2);
  for (index_t b = 0; b < 3; ++b) {
    problem<float> alone({1, 4, 2, 2, 20, 12});
    const auto entry = [b](const auto& t) { return t.all().slice(0, b, b + 1); };
    alone.final_state = tensor<float, 4>({1, 2, 20, 12});
    support::copy_into<float, 4>(entry(std::as_const(p.initial_state)), alone.final_state.all());
    heed::gated_linear_step(entry(p.q), entry(p.k), entry(p.v), entry(std::as_const(p.feature_gates)), alone.out,
                            alone.final_state);
    CHECK(same_bits<float, 4>(alone.out, entry(std::as_const(p.out))));
    CHECK(same_bits<float, 4>(alone.final_state, entry(std::as_const(p.final_state))));
  }
}

TEMPLATE_TEST_CASE("strides and padding change no bit of a step, and nothing outside is read or written", "", float,
                   heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  for (const shape& s : {shape{2, 4, 2, 3, 33, 20}, shape{1, 2, 2, 1, 1, 3}, shape{1, 3, 1, 1, 16, 64}})
    for (const gates kind : gate_kinds) {
      problem<S> dense(s);
      step_through<S>(dense, kind, s.N);
      for (const support::layout where : support::layouts) {
        CAPTURE(s.N, s.D, s.E, static_cast<int>(kind), static_cast<int>(where));
        const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
        const auto gates4 = laid_out(dense.feature_gates, where);
        const auto gates3 = laid_out(dense.token_gates, where);
        auto out = output_like(dense.out, where);
        support::guarded<T, 4> state({s.B, s.G, s.D, s.E}, where, T(0), T(-777));
        support::copy_into<T, 4>(dense.initial_state, state.all());
        if (kind == gates::feature)
          heed::gated_linear_step(q.all(), k.all(), v.all(), gates4.all(), out.all(), state.all());
        else
          heed::gated_linear_step(q.all(), k.all(), v.all(), gates3.all(), out.all(), state.all());
        CHECK(same_bits<S, 4>(out.all(), dense.out));
        CHECK(same_bits<T, 4>(state.all(), dense.final_state));
        CHECK(out.intact());
        CHECK(state.intact());
      }
    }
}
