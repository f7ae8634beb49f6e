#include "ops/linear/feature_backward.hpp"
#include "ops/linear/feature_grid.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <vector>

using namespace linear_test;

TEST_CASE("linear_backward agrees with its definition for every length and head size") {
  for_each_feature_shape<feature_gradient_problem<float>>(
      [](feature_gradient_problem<float>& p, const feature_kind& kind, bool causal, unsigned round) {
        linear_options<float> options = p.options(kind, causal, round % 4 != 0);
        if (round % 5 == 1) options.scale = 0.6;
        if (round % 6 == 1) options.eps = 0.25;
        if (round % 3 == 1) options.chunk = 16;
        CHECK(gradient_error_of<float>(p, options) <= 1);
      });
}

TEST_CASE("linear_backward: queries may stand anywhere among the keys") {
  struct {
    index_t N, M;
    std::optional<index_t> offset;
  } const cases[] = {{5, 9, {}},    {1, 200, {}}, {200, 70, {}}, {9, 5, {}},  {5, 200, 62}, {3, 3, -1},
                     {90, 90, -70}, {4, 0, {}},   {0, 70, {}},   {5, 90, -7}, {64, 128, 1}, {4, 8, -4}};
  for (const feature_kind& kind : feature_kinds)
    for (const auto& [N, M, offset] : cases)
      for (const bool with_state : {false, true}) {
        CAPTURE(static_cast<int>(kind.map), kind.normalise, N, M, offset.value_or(-1000), with_state);
        feature_gradient_problem<float> p({2, 4, 2, N, 10, 7, M});
        linear_options<float> options = p.options(kind, true, with_state);
        if (offset) options.q_offset = *offset;
        CHECK(gradient_error_of<float>(p, options) <= 1);
        if (offset) continue;
        feature_gradient_problem<float> all({2, 4, 2, N, 10, 7, M});
        CHECK(gradient_error_of<float>(all, all.options(kind, false, with_state)) <= 1);
      }
}

TEST_CASE("linear_backward: packed sequences, many chunks") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const feature_kind& kind : feature_kinds)
    for (const bool causal : {false, true})
      for (const bool with_state : {false, true}) {
        CAPTURE(static_cast<int>(kind.map), kind.normalise, causal, with_state);
        feature_gradient_problem<float> p({1, 4, 2, 230, 12, 11}, 1, 6);
        linear_options<float> options = p.options(kind, causal, with_state);
        options.cu_seqlens = cu;
        options.chunk = 1;
        CHECK(gradient_error_of<float>(p, options) <= 1);
      }
}

TEST_CASE("linear_backward: gradients are bit-equal by whatever worker tasks are run") {
  support::for_each_executor([&](heed::executor_ref where, const char* name) {
    for (const feature_kind& kind : feature_kinds)
      for (const bool causal : {false, true}) {
        CAPTURE(name, where.concurrency, static_cast<int>(kind.map), kind.normalise, causal);
        feature_gradient_problem<float> p({2, 4, 2, 90, 33, 20}), alone({2, 4, 2, 90, 33, 20});
        linear_options<float> options = p.options(kind, causal, true);
        options.executor = heed::serial();
        differentiate<float>(alone, options);
        options.executor = where;
        differentiate<float>(p, options);
        CHECK(same_gradients(p, alone));
      }
  });
}

TEST_CASE("linear_backward: a call needs the scratch it says and no more, and NaN in it changes nothing") {
  for (const feature_kind& kind : feature_kinds)
    for (const bool causal : {false, true}) {
      feature_gradient_problem<heed::bfloat16> p({2, 4, 2, 90, 33, 20}), alone({2, 4, 2, 90, 33, 20});
      linear_options<heed::bfloat16> options = p.options(kind, causal, true);
      options.executor = heed::serial();
      differentiate(alone, options);
      solve(p, options);
      linear_backward_options<heed::bfloat16> back = backward_options(options);
      const index_t bytes = heed::linear_backward_scratch_bytes<heed::bfloat16>(p.q, p.k, p.v, back);
      std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 65), 0xff);
      const auto call = [&] {
        heed::linear_backward(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.dq, p.dk, p.dv, back);
      };
      CAPTURE(static_cast<int>(kind.map), kind.normalise, causal, bytes);
      back.scratch = {memory.data() + 1, bytes - 1};
      CHECK_THROWS_AS(call(), heed::invalid_argument);
      back.scratch = {memory.data() + 1, bytes};
      call();
      CHECK(same_gradients(p, alone));
      CHECK(memory[0] == 0xff);
      for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
    }
}

TEST_CASE("linear_backward: a normalised exp has finite gradients for features of any size") {
  for (const bool causal : {false, true}) {
    // Features that are far apart: a query follows one key, and moving either by a constant changes nothing.
    feature_gradient_problem<float> p({1, 2, 1, 150, 9, 6}), moved({1, 2, 1, 150, 9, 6});
    for (auto* t : {&p.q, &p.k})
      for (float& x : *t) x = std::round(x * 8) * 2;
    for (index_t i = 0; i < p.q.size(); ++i) moved.q.data()[i] = p.q.data()[i] + 512;
    for (index_t i = 0; i < p.k.size(); ++i) moved.k.data()[i] = p.k.data()[i] - 2048;
    for (auto* x : {&p, &moved}) {
      linear_options<float> options = x->options({feature_map::exp, true}, causal);
      options.eps = 0;
      differentiate<float>(*x, options);
    }
    CAPTURE(causal);
    constexpr double allowed = gradient_tolerance<float>;
    CHECK(error<float>(moved.dq, reference::in_double(p.dq), allowed) <= 5);
    CHECK(error<float>(moved.dk, reference::in_double(p.dk), allowed) <= 5);
    CHECK(error<float>(moved.dv, reference::in_double(p.dv), allowed) <= 5);
  }
}
