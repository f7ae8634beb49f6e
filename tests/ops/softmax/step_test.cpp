#include "ops/softmax/step.hpp"
#include "support/catch.hpp"
#include "support/grid.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/masks.hpp>

#include <cstdint>
#include <stdexcept>
#include <vector>

using namespace softmax_test;
using support::laid_out;
using support::shuffling_executor;

TEMPLATE_TEST_CASE("softmax_step agrees with its definition for every grouping and length", "", float, double,
                   heed::bfloat16, heed::float16) {
  const index_t lengths[] = {0, 1, 3, 16, 63, 64, 65, 200, 517};
  unsigned seed = 0;
  for (const group& g : groups)
    for (const index_t M : lengths) {
      if (support::small_grid() && (++seed + M) % 4 != 0) continue;
      problem<TestType> p(shape_of(g, M, 24, 40), ++seed);
      CAPTURE(g.H, g.G, g.N, M);
      CHECK(step_error_of<TestType>(p, {.split = 100}) <= 1);
      CHECK(step_error_of<TestType>(p, {.scale = 0.7, .split = 64}, 1, heed::causal{}) <= 1);
    }
}

TEMPLATE_TEST_CASE("softmax_step agrees with its definition for every head size", "", float, double, heed::bfloat16,
                   heed::float16) {
  unsigned seed = 0;
  for (const index_t D : {1, 2, 7, 8, 16, 17, 64, 80, 100, 128})
    for (const index_t E : {1, 5, 16, 31, 64, 96, 129}) {
      if (support::small_grid() && ++seed % 5 != 0) continue;
      problem<TestType> p({2, 4, 2, 1, 150, D, E}, static_cast<unsigned>(D * E));
      CAPTURE(D, E);
      CHECK(step_error_of(p) <= 1);
    }
}

TEST_CASE("a step of a sequence does not depend on its neighbors in the batch, bit for bit") {
  const std::vector<std::int64_t> lengths{300, 0, 1, 129, 517};
  const auto mod = [](auto s, auto at) { return s * (1 + 0.01f * at.h); };
  problem<float> p({5, 4, 2, 2, 517, 32, 48});
  CHECK(step_error_of<float>(p, {.kv_lengths = lengths, .split = 64}, 2, mod, heed::causal{}) <= 1);
  for (index_t b = 0; b < 5; ++b) {
    problem<float> alone({1, 4, 2, 2, lengths[static_cast<std::size_t>(b)], 32, 48});
    const auto entry = [b](const auto& t) { return t.all().slice(0, b, b + 1); };
    const auto live = [&](const auto& t) { return entry(t).slice(2, 0, lengths[static_cast<std::size_t>(b)]); };
    heed::softmax_step(entry(p.q), live(p.k), live(p.v), alone.out, {.lse = alone.lse, .split = 64}, mod,
                       heed::causal{});
    CAPTURE(b);
    CHECK(same_bits<float, 4>(alone.out, entry(std::as_const(p.out))));
    CHECK(same_bits<float, 3>(alone.lse, entry(std::as_const(p.lse))));
  }
}

TEST_CASE("splits and executors: a step changes within rounding by the one, by no bit by the other") {
  for (const shape& s :
       {shape{2, 8, 2, 1, 1000, 32, 32}, shape{1, 4, 4, 3, 700, 20, 24}, shape{3, 3, 1, 0, 10, 8, 8}}) {
    problem<float> alone(s);
    CAPTURE(s.N, s.M);
    for (const index_t split : {1, 64, 65, 300, 5000}) {
      CHECK(step_error_of<float>(alone, {.split = split, .executor = heed::serial()}) <= 1);
      const auto same_as_alone = [&](heed::executor_ref where) {
        problem<float> p(s);
        heed::softmax_step(p.q, p.k, p.v, p.out, {.lse = p.lse, .split = split, .executor = where});
        return same_result(p, alone);
      };
      for (const index_t workers : {1, 3}) {
        shuffling_executor backwards(shuffling_executor::order::backwards, workers);
        shuffling_executor shuffled(shuffling_executor::order::shuffled, workers);
        CHECK(same_as_alone(heed::executor(backwards)));
        CHECK(same_as_alone(heed::executor(shuffled)));
      }
      CHECK(same_as_alone({}));
    }
  }
}

TEST_CASE("an exception of a mod passes through a step") {
  problem<float> p({1, 4, 1, 2, 100, 8, 8});
  const auto throwing = [](float s, position at) -> float {
    if (at.kv == 70 && at.h == 2) throw std::runtime_error("from a mod");
    return s;
  };
  CHECK_THROWS_AS(heed::softmax_step(p.q, p.k, p.v, p.out, {}, throwing), std::runtime_error);
  CHECK(step_error_of(p) <= 1);
}

TEMPLATE_TEST_CASE("strides and padding change no bit of a step, and nothing outside the tensors is read or written",
                   "", float, heed::bfloat16) {
  using T = heed::accumulator_t<TestType>;
  for (const shape& s : {shape{2, 4, 2, 2, 150, 33, 20}, shape{1, 2, 2, 1, 70, 64, 80}}) {
    problem<TestType> dense(s);
    heed::softmax_step(dense.q, dense.k, dense.v, dense.out, {.lse = dense.lse, .window_left = 90});
    for (const support::layout where : support::layouts) {
      CAPTURE(s.N, static_cast<int>(where));
      const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
      support::guarded<TestType, 4> o({s.B, s.H, s.N, s.E}, where, support::quiet_nan<TestType>, TestType(-777));
      support::guarded<T, 3> lse({s.B, s.H, s.N}, where, support::quiet_nan<T>, T(-777));
      heed::softmax_step(q.all(), k.all(), v.all(), o.all(), {.lse = lse.all(), .window_left = 90});
      CHECK(same_bits<TestType, 4>(o.all(), dense.out));
      CHECK(same_bits<T, 3>(lse.all(), dense.lse));
      CHECK(o.intact());
      CHECK(lse.intact());
    }
  }
}
