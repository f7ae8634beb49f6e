// Splits, offsets, packed batches, steps and workers of FAST.
#include "ops/linear/fastmax.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;
using support::check_refusal;

namespace {

void solve_tokens(fastmax_problem<float>& p, const fastmax_options<float>& options, index_t begin, index_t end) {
  const auto cut = [&](const auto& t) { return t.slice(2, begin, end); };
  heed::fastmax_forward(cut(std::as_const(p.q).all()), cut(std::as_const(p.k).all()), cut(std::as_const(p.v).all()),
                        cut(p.out.all()), options);
}

heed::fastmax_step_options<float> step_options(const fastmax_options<float>& forward) {
  heed::fastmax_step_options<float> o;
  o.p = forward.p;
  o.tau = forward.tau;
  o.norm = forward.norm;
  o.limit = forward.limit;
  o.centre = forward.centre;
  o.query_norms = forward.query_norms;
  o.key_norms = forward.key_norms;
  return o;
}

}  // namespace

TEST_CASE("fastmax: a sequence may be split anywhere, and go on token by token") {
  for (const fastmax_norm norm : fastmax_norms_of)
    for (const int p : {1, 2})
      for (const index_t cut : {0, 1, 64, 89, 90}) {
        CAPTURE(static_cast<int>(norm), p, cut);
        fastmax_problem<float> whole({2, 4, 2, 90, 7, 9}, p), split({2, 4, 2, 90, 7, 9}, p);
        CHECK(error_of<float>(whole, whole.options(p, norm, true)) <= 1);
        fastmax_options<float> options = split.options(p, norm, true);
        split.state = tensor<float, 4>::full({2, 2, heed::fastmax_features(7, p), 10}, 0.f);
        options.initial_state = split.state;
        options.final_state = split.state;
        solve_tokens(split, options, 0, cut);
        if (cut < 80) {
          solve_tokens(split, options, cut, 90);
        } else {
          for (index_t t = cut; t < 90; ++t) {
            const auto one = [&](const auto& x) { return x.slice(2, t, t + 1); };
            heed::fastmax_step(one(std::as_const(split.q).all()), one(std::as_const(split.k).all()),
                               one(std::as_const(split.v).all()), one(split.out.all()), split.state,
                               step_options(options));
          }
        }
        CHECK(error<float>(split.out, reference::in_double(whole.out)) <= 1);
        CHECK(error<float>(split.state, reference::in_double(whole.state)) <= 1);
      }
}

TEST_CASE("fastmax: queries may stand anywhere among the keys") {
  struct {
    index_t N, M;
    std::optional<index_t> offset;
  } const cases[] = {{5, 9, {}},    {1, 200, {}}, {200, 70, {}}, {9, 5, {}},  {5, 200, 62}, {3, 3, -1},
                     {90, 90, -70}, {4, 0, {}},   {0, 70, {}},   {5, 90, -7}, {64, 128, 1}};
  for (const auto& [N, M, offset] : cases)
    for (const int p : {1, 2})
      for (const bool causal : {false, true}) {
        if (offset && !causal) continue;
        CAPTURE(N, M, offset.value_or(-1000), p, causal);
        fastmax_problem<float> problem({2, 4, 2, N, 6, 7, M}, p);
        fastmax_options<float> options = problem.options(p, fastmax_norm::standardize, causal);
        if (offset) options.q_offset = *offset;
        CHECK(error_of<float>(problem, options) <= 1);
        CHECK(gradient_error_of<float>(problem, options) <= 1);
      }
}

TEST_CASE("fastmax: packed sequences are sequences of their own") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const int p : {1, 2})
    for (const bool causal : {false, true}) {
      CAPTURE(p, causal);
      fastmax_problem<float> problem({1, 4, 2, 230, 6, 5}, p, 6);
      fastmax_options<float> options = problem.options(p, fastmax_norm::none, causal);
      options.cu_seqlens = cu;
      CHECK(error_of<float>(problem, options) <= 1);
      CHECK(gradient_error_of<float>(problem, options) <= 1);
    }
}

TEST_CASE("fastmax: results are bit-equal by whatever worker tasks are run") {
  support::for_each_executor([&](heed::executor_ref where, const char* name) {
    for (const fastmax_shape& s : {fastmax_shape{1, 2, 1, 150, 33, 5}, fastmax_shape{2, 4, 4, 40, 7, 9}})
      for (const bool causal : {false, true}) {
        CAPTURE(name, where.concurrency, s.N, causal);
        fastmax_problem<float> p(s), alone(s);
        fastmax_options<float> options = p.options(2, fastmax_norm::none, causal);
        options.chunk = 16;
        options.executor = heed::serial();
        differentiate(alone, options);
        options.executor = where;
        differentiate(p, options);
        CHECK(same_bits<float, 4>(p.out, alone.out));
        CHECK(same_bits<float, 3>(p.denominator, alone.denominator));
        CHECK(same_bits<float, 4>(p.dq, alone.dq));
        CHECK(same_bits<float, 4>(p.dk, alone.dk));
        CHECK(same_bits<float, 4>(p.dv, alone.dv));
      }
  });
}

TEST_CASE("fastmax: calls need the scratch they say and no more, and NaN in it changes nothing") {
  for (const bool causal : {false, true})
    for (const index_t N : {7, 90}) {
      CAPTURE(causal, N);
      fastmax_problem<heed::bfloat16> p({2, 4, 2, N, 9, 12}), alone({2, 4, 2, N, 9, 12});
      fastmax_options<heed::bfloat16> options = p.options(2, fastmax_norm::standardize, causal);
      options.executor = heed::serial();
      differentiate(alone, options);
      options.denominator = p.denominator;
      const auto check = [&](index_t bytes, auto& with, const auto& call) {
        std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 65), 0xff);
        with.scratch = {memory.data() + 1, bytes - 1};
        CHECK_THROWS_AS(call(), heed::invalid_argument);
        with.scratch = {memory.data() + 1, bytes};
        call();
        CHECK(memory[0] == 0xff);
        for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
      };
      check(heed::fastmax_forward_scratch_bytes<heed::bfloat16>(p.q, p.k, p.v, options), options,
            [&] { heed::fastmax_forward(p.q, p.k, p.v, p.out, options); });
      auto back = backward_options(options);
      check(heed::fastmax_backward_scratch_bytes<heed::bfloat16>(p.q, p.k, p.v, back), back,
            [&] { heed::fastmax_backward(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.dq, p.dk, p.dv, back); });
      CHECK(same_bits<heed::bfloat16, 4>(p.out, alone.out));
      CHECK(same_bits<heed::bfloat16, 4>(p.dq, alone.dq));
      CHECK(same_bits<heed::bfloat16, 4>(p.dk, alone.dk));
      CHECK(same_bits<heed::bfloat16, 4>(p.dv, alone.dv));
    }
}

TEST_CASE("fastmax refuses what it cannot work on") {
  fastmax_problem<float> p({2, 4, 2, 10, 8, 6});
  const fastmax_options<float> good = p.options(2, fastmax_norm::none, true);
  const auto refusal = [&](const std::vector<std::string>& parts, const auto& change) {
    fastmax_options<float> options = good;
    change(options);
    check_refusal("fastmax_forward", parts, [&] { heed::fastmax_forward(p.q, p.k, p.v, p.out, options); });
  };
  refusal({"options.p", "1 or 2"}, [](auto& o) { o.p = 3; });
  refusal({"options.tau"}, [](auto& o) { o.tau = 0.0; });
  refusal({"options.tau"}, [](auto& o) { o.tau = std::numeric_limits<double>::infinity(); });
  refusal({"options.norm"}, [](auto& o) { o.norm = static_cast<fastmax_norm>(7); });
  refusal({"options.limit"}, [](auto& o) { o.limit = -1; });
  refusal({"options.chunk"}, [](auto& o) { o.chunk = 0; });
  refusal({"options.query_norms", "maxnorm"}, [](auto& o) { o.norm = fastmax_norm::maxnorm; });
  refusal({"options.query_norms", "above 0"}, [&](auto& o) {
    o = p.options(2, fastmax_norm::maxnorm, true);
    p.query_norms(1, 2) = 0;
  });
  refusal({"options.key_norms", "none"}, [&](auto& o) { o.key_norms = p.key_norms; });
  refusal({"options.final_state.extent(3)"}, [&](auto& o) {
    p.state = tensor<float, 4>({2, 2, heed::fastmax_features(8, 2), 6});
    o.final_state = p.state;
  });
  refusal({"options.q_offset"}, [](auto& o) { o.q_offset = 3; });
  p.state = tensor<float, 4>({2, 2, heed::fastmax_features(8, 1), 7});
  check_refusal("fastmax_step", {"state.extent(2)"}, [&] { heed::fastmax_step(p.q, p.k, p.v, p.out, p.state); });
  p.denominator = tensor<float, 3>({2, 4, 9});
  check_refusal("fastmax_backward", {"denominator.extent(2)"},
                [&] { heed::fastmax_backward(p.q, p.k, p.v, p.out, p.denominator, p.dout, p.dq, p.dk, p.dv); });
}
