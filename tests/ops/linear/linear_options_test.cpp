// Chunks, splits, offsets and packed batches of linear attention, and features of any size.
#include "ops/linear/feature.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;

namespace {

/// The call for tokens [begin, end).
template <class S>
void solve_tokens(feature_problem<S>& p, linear_options<S> options, index_t begin, index_t end) {
  const auto cut = [&](const auto& t) { return t.slice(2, begin, end); };
  if (options.normalise) options.denominator = cut(p.denominator.all());
  heed::linear_forward(cut(std::as_const(p.q).all()), cut(std::as_const(p.k).all()), cut(std::as_const(p.v).all()),
                       cut(p.out.all()), options);
}

}  // namespace

TEST_CASE("linear_forward: chunks of any size give the same result") {
  for (const feature_kind& kind : feature_kinds)
    for (const bool causal : {false, true})
      for (const index_t N : {1, 17, 64, 130})
        for (const index_t chunk : {index_t(1), index_t(3), index_t(64), index_t(1) << 40}) {
          CAPTURE(static_cast<int>(kind.map), kind.normalise, causal, N, chunk);
          feature_problem<float> p({2, 4, 2, N, 20, 12});
          linear_options<float> options = p.options(kind, causal, true);
          options.chunk = chunk;
          CHECK(error_of<float>(p, options) <= 1);
        }
}

TEST_CASE("linear_forward: a sequence may be split anywhere, its state handed on in place") {
  const index_t N = 130;
  for (const feature_kind& kind : feature_kinds)
    for (const index_t cut : {index_t(0), index_t(1), index_t(64), index_t(70), N - 1, N}) {
      CAPTURE(static_cast<int>(kind.map), kind.normalise, cut);
      feature_problem<float> whole({2, 4, 2, N, 17, 9}), split({2, 4, 2, N, 17, 9});
      solve<float>(whole, whole.options(kind, true, true));
      linear_options<float> options = split.options(kind, true, true);
      options.final_state = split.initial_state;
      if (kind.normalise) options.final_sum = split.initial_sum;
      solve_tokens<float>(split, options, 0, cut);
      solve_tokens<float>(split, options, cut, N);
      CHECK(error<float>(split.out, reference::in_double(whole.out)) <= 1);
      CHECK(error<float>(split.initial_state, reference::in_double(whole.final_state)) <= 1);
      if (kind.normalise) CHECK(error<float>(split.initial_sum, reference::in_double(whole.final_sum)) <= 1);
    }
}

TEST_CASE("linear_forward: queries may stand anywhere among the keys") {
  struct {
    index_t N, M;
    std::optional<index_t> offset;
  } const cases[] = {{5, 9, {}},    {1, 200, {}}, {200, 70, {}}, {9, 5, {}},  {5, 200, 62}, {3, 3, -1},
                     {90, 90, -70}, {4, 0, {}},   {0, 70, {}},   {5, 90, -7}, {64, 128, 1}, {4, 8, -4}};
  for (const feature_kind& kind : feature_kinds)
    for (const auto& [N, M, offset] : cases)
      for (const bool with_state : {false, true}) {
        CAPTURE(static_cast<int>(kind.map), kind.normalise, N, M, offset.value_or(-1000), with_state);
        feature_problem<float> p({2, 4, 2, N, 10, 7, M});
        linear_options<float> options = p.options(kind, true, with_state);
        if (offset) options.q_offset = *offset;
        CHECK(error_of<float>(p, options) <= 1);
        if (offset) continue;
        feature_problem<float> all({2, 4, 2, N, 10, 7, M});
        CHECK(error_of<float>(all, all.options(kind, false, with_state)) <= 1);
      }
}

TEST_CASE("linear_forward: packed sequences are calls of their own, bit for bit") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const feature_kind& kind : feature_kinds)
    for (const bool causal : {false, true})
      for (const bool with_state : {false, true}) {
        CAPTURE(static_cast<int>(kind.map), kind.normalise, causal, with_state);
        feature_problem<float> p({1, 4, 2, 230, 12, 11}, 1, 6), alone({1, 4, 2, 230, 12, 11}, 1, 6);
        linear_options<float> options = p.options(kind, causal, with_state);
        options.cu_seqlens = cu;
        CHECK(error_of<float>(p, options) <= 1);
        solve<float>(p, options);
        for (index_t s = 0; s < 6; ++s) {
          const auto of = [&](const auto& t) { return t.slice(0, s, s + 1); };
          linear_options<float> one = alone.options(kind, causal);
          one.final_state = of(alone.final_state.all());
          if (kind.normalise) one.final_sum = of(alone.final_sum.all());
          if (with_state) one.initial_state = of(std::as_const(alone.initial_state).all());
          if (with_state && kind.normalise) one.initial_sum = of(std::as_const(alone.initial_sum).all());
          const auto n = static_cast<std::size_t>(s);
          solve_tokens<float>(alone, one, cu[n], cu[n + 1]);
        }
        CHECK(same_result(p, alone));
      }
}

TEST_CASE("linear_forward: results are bit-equal by whatever worker tasks are run") {
  const feature_shape shapes[] = {
      {1, 1, 1, 300, 33, 20}, {1, 4, 2, 150, 16, 8}, {2, 8, 8, 40, 8, 8}, {1, 2, 1, 0, 8, 8}};
  support::for_each_executor([&](heed::executor_ref where, const char* name) {
    for (const feature_shape& s : shapes)
      for (const feature_kind& kind : feature_kinds)
        for (const bool causal : {false, true}) {
          CAPTURE(name, where.concurrency, s.N, static_cast<int>(kind.map), kind.normalise, causal);
          feature_problem<float> p(s), alone(s);
          linear_options<float> options = p.options(kind, causal, true);
          options.chunk = 2;
          options.executor = heed::serial();
          solve<float>(alone, options);
          options.executor = where;
          solve<float>(p, options);
          CHECK(same_result(p, alone));
        }
  });
}

TEST_CASE("linear_forward: a normalised exp is right for features of any size") {
  for (const bool causal : {false, true})
    for (const double size : {30.0, 300.0, 3000.0}) {
      CAPTURE(causal, size);
      feature_problem<float> p({1, 2, 1, 150, 9, 6});
      for (auto* t : {&p.q, &p.k})
        for (float& x : *t) x = std::round(x * static_cast<float>(size) * 8) / 8;
      // Softmax over all pairs of keys and features that a query sees.
      tensor<double, 4> expected({1, 2, 150, 6});
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < 150; ++i) {
          const index_t seen = causal ? i + 1 : 150;
          double top = -1e300, sum = 0;
          const auto logit = [&](index_t j, index_t d) {
            return static_cast<double>(p.q(0, h, i, d)) + static_cast<double>(p.k(0, 0, j, d));
          };
          for (index_t j = 0; j < seen; ++j)
            for (index_t d = 0; d < 9; ++d) top = std::max(top, logit(j, d));
          for (index_t j = 0; j < seen; ++j)
            for (index_t d = 0; d < 9; ++d) {
              const double w = std::exp(logit(j, d) - top);
              sum += w;
              for (index_t e = 0; e < 6; ++e) expected(0, h, i, e) += w * static_cast<double>(p.v(0, 0, j, e));
            }
          for (index_t e = 0; e < 6; ++e) expected(0, h, i, e) /= sum;
        }
      linear_options<float> options = p.options({feature_map::exp, true}, causal);
      options.eps = 0;
      options.denominator = p.denominator;
      heed::linear_forward(p.q, p.k, p.v, p.out, options);
      CHECK(error<float>(p.out, expected) <= 1);
      for (const float x : p.denominator) CHECK(std::isfinite(x));
    }
}

TEST_CASE("linear_forward: a call needs the scratch it says and no more, and NaN in it changes nothing") {
  for (const feature_shape& s : {feature_shape{1, 1, 1, 300, 33, 20}, feature_shape{2, 4, 2, 40, 8, 8}})
    for (const feature_kind& kind : feature_kinds)
      for (const bool causal : {false, true})
        for (const index_t workers : {1, 3}) {
          feature_problem<heed::bfloat16> p(s), alone(s);
          linear_options<heed::bfloat16> options = p.options(kind, causal, true);
          options.executor = heed::serial();
          solve(alone, options);
          support::shuffling_executor shuffled(support::shuffling_executor::order::shuffled, workers);
          if (workers > 1) options.executor = heed::executor(shuffled);
          const index_t bytes = heed::linear_forward_scratch_bytes<heed::bfloat16>(p.q, p.k, p.v, options);
          std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 65), 0xff);
          options.scratch = {memory.data() + 1, bytes};
          solve(p, options);
          CAPTURE(s.N, static_cast<int>(kind.map), kind.normalise, causal, workers, bytes);
          CHECK(same_result(p, alone));
          CHECK(memory[0] == 0xff);
          for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
          options.scratch = {memory.data() + 1, bytes - 1};
          CHECK_THROWS_AS(solve(p, options), heed::invalid_argument);
        }
}

TEST_CASE("linear_forward: strides and padding change no bit, and nothing outside the tensors is written") {
  using support::guarded;
  using support::laid_out;
  for (const feature_kind& kind : feature_kinds)
    for (const bool causal : {false, true})
      for (const support::layout where : support::layouts) {
        CAPTURE(static_cast<int>(kind.map), kind.normalise, causal, static_cast<int>(where));
        feature_problem<float> dense({2, 4, 2, 70, 33, 20});
        linear_options<float> options = dense.options(kind, causal, true);
        solve<float>(dense, options);
        const auto q = laid_out(dense.q, where), k = laid_out(dense.k, where), v = laid_out(dense.v, where);
        guarded<float, 4> out({2, 4, 70, 20}, where, support::quiet_nan<float>, -777.f);
        guarded<float, 4> final_state({2, 2, 33, 20}, where, support::quiet_nan<float>, -777.f);
        guarded<float, 3> den({2, 4, 70}, where, support::quiet_nan<float>, -777.f);
        options.final_state = final_state.all();
        if (kind.normalise) options.denominator = den.all();
        heed::linear_forward(q.all(), k.all(), v.all(), out.all(), options);
        CHECK(same_bits<float, 4>(out.all(), dense.out));
        CHECK(same_bits<float, 4>(final_state.all(), dense.final_state));
        if (kind.normalise) CHECK(same_bits<float, 3>(den.all(), dense.denominator));
        CHECK(out.intact());
        CHECK(final_state.intact());
        CHECK(den.intact());
      }
}
