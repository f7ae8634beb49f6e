#include "ops/linear/gated_slot_step.hpp"
#include "ops/linear/grid.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <limits>

using namespace linear_test;

TEMPLATE_TEST_CASE("steps of slots agree with the definition for every grouping and size", "", float, double,
                   heed::bfloat16, heed::float16) {
  unsigned round = 0;
  for (const head_counts heads : {head_counts{1, 1}, {2, 2}, {4, 2}, {3, 1}, {5, 1}, {8, 1}, {16, 1}, {9, 1}})
    for (const index_t D : head_sizes)
      for (const index_t S : head_sizes) {
        if (support::small_grid() && ++round % 5 != 0) continue;
        ++round;
        const index_t E = head_sizes[round % std::size(head_sizes)], at_once = 1 + round % 3 * 2;
        const strengths write = round / 3 % 2 == 0 ? strengths::tied : strengths::free;
        slot_problem<TestType> p({1 + round % 2, heads.heads, heads.groups, 7, D, E, S}, taus[round % 3], round, write);
        CAPTURE(heads.heads, heads.groups, D, E, S, at_once, static_cast<int>(write));
        step_through<TestType>(p, at_once);
        CHECK(step_error<TestType>(p) <= 1);
      }
}

TEST_CASE("steps of slots continue a chunked call, and a chunked call continues steps") {
  const index_t N = 150;
  slot_problem<float> p({2, 4, 2, N, 20, 12, 10});
  const auto forward = [&](index_t begin, index_t end) {
    const auto in = [&](const auto& t) { return t.all().slice(2, begin, end); };
    heed::gated_slot_forward(in(p.q), in(p.k), in(p.v), in(std::as_const(p.s)), in(std::as_const(p.g)),
                             p.out.all().slice(2, begin, end),
                             {.initial_keys = p.final_keys,
                              .initial_values = p.final_values,
                              .final_keys = p.final_keys,
                              .final_values = p.final_values});
  };
  p.final_keys = p.initial_keys;
  p.final_values = p.initial_values;
  forward(0, 70);
  for (index_t t = 70; t < 90; ++t) step_on<heed::default_arch, float>(p, t, t + 1);
  forward(90, N);
  CHECK(step_error<float>(p) <= 1);
}

TEST_CASE("several tokens a step of slots equal as many steps, bit for bit") {
  slot_problem<float> one({2, 6, 2, 12, 20, 12, 10}), many({2, 6, 2, 12, 20, 12, 10});
  step_through(one, 1);
  for (const index_t at_once : {2, 5, 12, 100}) {
    step_through(many, at_once);
    CHECK(same_result(one, many));
  }
}

TEST_CASE("4096 steps of slots stay within the bound of a short sequence") {
  for (const double tau : {0.5, 16.0}) {
    CAPTURE(tau);
    slot_problem<float> p({1, 2, 1, support::small_grid() ? 512 : 4096, 12, 9, 10}, tau);
    step_through(p, 1);
    CHECK(step_error<float>(p) <= 1);
  }
}

TEST_CASE("gates of 0, of 1e-30 and of 1 side by side lose no digit of a step of slots") {
  const float extremes[] = {-std::numeric_limits<float>::infinity(), -69.0f, 0.0f};
  slot_problem<float> p({1, 4, 2, 8, 20, 12, 10});
  for (index_t i = 0; i < p.g.size(); ++i) p.g.data()[i] = extremes[i % 3];
  step_through(p, 1);
  CHECK(step_error<float>(p) <= 1);
}

TEST_CASE("steps of slots are bit-equal in whatever order and by whatever worker tasks are run") {
  for (const slot_shape& s : {slot_shape{1, 1, 1, 3, 130, 200, 100}, slot_shape{3, 8, 2, 2, 33, 20, 12},
                              slot_shape{2, 4, 4, 1, 64, 64, 64}}) {
    slot_problem<float> alone(s);
    step_through<float>(alone, s.N, {.executor = heed::serial()});
    support::for_each_executor([&](heed::executor_ref where, const char* name) {
      slot_problem<float> p(s);
      step_through<float>(p, s.N, {.executor = where});
      CAPTURE(name, where.concurrency, s.N);
      CHECK(same_result(p, alone));
    });
  }
}

TEMPLATE_TEST_CASE("strides and padding change no bit of a step of slots, and nothing outside is read or written", "",
                   float, heed::bfloat16) {
  using S = TestType;
  using T = heed::accumulator_t<S>;
  for (const slot_shape& x :
       {slot_shape{2, 4, 2, 3, 33, 20, 12}, slot_shape{1, 2, 2, 1, 1, 3, 1}, slot_shape{1, 3, 1, 1, 16, 64, 33}}) {
    slot_problem<S> dense(x);
    step_through<S>(dense, x.N);
    for (const support::layout where : support::layouts) {
      CAPTURE(x.N, x.D, x.E, x.S, static_cast<int>(where));
      const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
      const auto s = laid_out(dense.s, where), g = laid_out(dense.g, where);
      auto out = output_like(dense.out, where);
      support::guarded<T, 4> keys({x.B, x.G, x.D, x.S}, where, T(0), T(-777)),
          values({x.B, x.G, x.S, x.E}, where, T(0), T(-777));
      support::copy_into<T, 4>(dense.initial_keys, keys.all());
      support::copy_into<T, 4>(dense.initial_values, values.all());
      heed::gated_slot_step(q.all(), k.all(), v.all(), s.all(), g.all(), out.all(), keys.all(), values.all());
      CHECK(same_bits<S, 4>(out.all(), dense.out));
      CHECK(same_bits<T, 4>(keys.all(), dense.final_keys));
      CHECK(same_bits<T, 4>(values.all(), dense.final_values));
      const bool intact = out.intact() && keys.intact() && values.intact();
      CHECK(intact);
    }
  }
}
