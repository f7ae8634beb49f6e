#include "ops/linear/lightning.hpp"

#include "ops/linear/grid.hpp"
#include "support/arch.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/refusal.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <limits>
#include <vector>

using namespace linear_test;
using support::check_refusal;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double rates[] = {0.02, 0.5, 3, 200};

template <class S>
void check_grid() {
  unsigned round = 0;
  for (const index_t N : lengths())
    for (const index_t D : head_sizes)
      for (const index_t E : head_sizes) {
        if (!is_in_grid<S>(N, D, E)) continue;
        const head_counts heads = groupings[round % std::size(groupings)];
        const double fastest = rates[round / 2 % std::size(rates)];
        CAPTURE(heads.heads, heads.groups, N, D, E, fastest, round);
        lightning_problem<S> p({1 + round % 2, heads.heads, heads.groups, N, D, E}, fastest, round);
        recurrence_backward_options<S> options;
        if (round % 4 != 0) options.initial_state = p.initial_state;
        if (round % 3 != 0) options.dfinal_state = p.dfinal_state;
        if (round % 5 == 1) options.scale = -0.6;
        options.reverse = round % 7 == 3;
        CHECK(forward_error<S>(p, forward_options(options)) <= 1);
        CHECK(backward_error<S>(p, options) <= 1);
        ++round;
      }
}

}  // namespace

TEST_CASE("Lightning Attention and its gradients agree with their definition for every length and head size") {
  check_grid<float>();
}

TEMPLATE_TEST_CASE("Lightning Attention and its gradients agree with their definition for every element type", "",
                   double, heed::bfloat16, heed::float16) {
  check_grid<TestType>();
}

TEST_CASE("Lightning Attention agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    for (const double fastest : {0.3, 5.0}) {
      lightning_problem<float> p({2, 4, 2, 100, 33, 20}, fastest);
      CHECK(forward_error_on<A, float>(p, {.initial_state = p.initial_state}) <= 1);
      CHECK(backward_error_on<A, float>(p, {.initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
    }
  });
}

TEST_CASE("Lightning Attention: chunks of any size give the same result") {
  for (const index_t N : {0, 1, 15, 64, 65, 200})
    for (const index_t chunk : {index_t(1), index_t(3), index_t(16), index_t(64), N + 5, index_t(1) << 40})
      for (const double fastest : {0.5, 3.0}) {
        CAPTURE(N, chunk, fastest);
        lightning_problem<float> p({2, 4, 2, N, 20, 12}, fastest);
        CHECK(forward_error<float>(p, {.chunk = chunk, .initial_state = p.initial_state}) <= 1);
        CHECK(backward_error<float>(
                  p, {.chunk = chunk, .initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
      }
}

TEST_CASE("Lightning Attention: queries may stand anywhere among the keys") {
  for (const auto& [N, M] : {std::pair<index_t, index_t>{5, 9}, {70, 200}, {200, 70}, {4, 0}, {0, 70}}) {
    CAPTURE(N, M);
    lightning_problem<float> p({2, 4, 2, N, 10, 7, M});
    CHECK(forward_error<float>(p, {.chunk = 16, .initial_state = p.initial_state}) <= 1);
  }
}

TEST_CASE("Lightning Attention: packed sequences") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const bool reverse : {false, true}) {
    lightning_problem<float> p({1, 4, 2, 230, 12, 11}, 0.5, 1, 6);
    CHECK(forward_error<float>(p, {.initial_state = p.initial_state, .cu_seqlens = cu, .reverse = reverse}) <= 1);
    CHECK(backward_error<float>(p, {.initial_state = p.initial_state,
                                    .dfinal_state = p.dfinal_state,
                                    .cu_seqlens = cu,
                                    .reverse = reverse}) <= 1);
  }
}

TEST_CASE("Lightning Attention: a slope of 0 never forgets, one of infinity remembers nothing") {
  lightning_problem<float> p({1, 2, 1, 130, 16, 16});
  p.slopes(0) = 0;
  p.slopes(1) = static_cast<float>(infinity);
  CHECK(forward_error<float>(p, {.initial_state = p.initial_state}) <= 1);
  for (const index_t t : {0, 63, 64, 129}) {
    double score = 0;
    for (index_t d = 0; d < 16; ++d)
      score += static_cast<double>(p.q(0, 1, t, d)) * static_cast<double>(p.k(0, 0, t, d));
    for (index_t e = 0; e < 16; ++e)
      CHECK(static_cast<double>(p.out(0, 1, t, e)) ==
            Approx(score * static_cast<double>(p.v(0, 0, t, e))).margin(1e-4));
  }
}

TEST_CASE("Lightning Attention: gradients by slopes are optional, and change no others") {
  lightning_problem<float> with({2, 4, 2, 130, 16, 12}), without({2, 4, 2, 130, 16, 12});
  heed::lightning_backward(with.q, with.k, with.v, with.slopes, with.dout, with.dq, with.dk, with.dv, with.dslopes,
                           {.dinitial_state = with.dinitial_state});
  heed::lightning_backward(without.q, without.k, without.v, without.slopes, without.dout, without.dq, without.dk,
                           without.dv, {.dinitial_state = without.dinitial_state});
  CHECK(same_bits<float, 4>(with.dq, without.dq));
  CHECK(same_bits<float, 4>(with.dk, without.dk));
  CHECK(same_bits<float, 4>(with.dv, without.dv));
  CHECK(same_bits<float, 4>(with.dinitial_state, without.dinitial_state));
}

TEST_CASE("Lightning Attention: gradients by slopes are those of differences") {
  lightning_problem<double> p({1, 2, 1, 90, 6, 5}, 0.4);
  p.slopes(0) = 0.1;
  const auto loss = [&] {
    heed::lightning_forward(p.q, p.k, p.v, p.slopes, p.out, {.initial_state = p.initial_state});
    double sum = 0;
    for (index_t i = 0; i < p.out.size(); ++i) sum += p.out.data()[i] * p.dout.data()[i];
    return sum;
  };
  heed::lightning_backward(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv, p.dslopes,
                           {.initial_state = p.initial_state});
  for (index_t h = 0; h < 2; ++h) {
    const double at = p.slopes(h), step = 1e-6;
    p.slopes(h) = at + step;
    const double above = loss();
    p.slopes(h) = at - step;
    const double below = loss();
    p.slopes(h) = at;
    CHECK(p.dslopes(0, h) == Approx((above - below) / (2 * step)).epsilon(1e-6));
  }
}

TEST_CASE("Lightning Attention: steps continue a sequence") {
  for (const double fastest : {0.1, 2.0})
    for (const index_t together : {1, 3}) {
      const index_t N = 66, D = 17, E = 20;
      lightning_problem<float> p({2, 4, 2, N, D, E}, fastest);
      const auto expected = reference::lightning(definition<float>(p, {.initial_state = p.initial_state}),
                                                 reference::in_double(p.slopes));
      const auto part = [](const auto& t, index_t begin, index_t end) { return t.all().slice(2, begin, end); };
      const auto& given = std::as_const(p);
      const auto out = [&](index_t begin, index_t end) { return p.out.all().slice(2, begin, end); };
      tensor<float, 4>& state = p.initial_state;
      heed::lightning_forward(part(given.q, 0, 30), part(given.k, 0, 30), part(given.v, 0, 30), p.slopes, out(0, 30),
                              {.initial_state = state, .final_state = state});
      for (index_t t = 30; t < N; t += together)
        heed::lightning_step(part(given.q, t, t + together), part(given.k, t, t + together),
                             part(given.v, t, t + together), p.slopes, out(t, t + together), state);
      CHECK(error<float>(p.out, expected.out) <= 1);
      CHECK(error<float>(state, expected.final_state) <= 1);
    }
}

TEST_CASE("Lightning Attention: any executor gives the same bits") {
  const auto run = [](const shape& s, heed::executor_ref where) {
    lightning_problem<float> p(s);
    const recurrence_options<float> forward{
        .chunk = 16, .initial_state = p.initial_state, .final_state = p.final_state, .executor = where};
    heed::lightning_forward(p.q, p.k, p.v, p.slopes, p.out, forward);
    const recurrence_backward_options<float> backward{
        .chunk = 16, .initial_state = p.initial_state, .dinitial_state = p.dinitial_state, .executor = where};
    heed::lightning_backward(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv, p.dslopes, backward);
    return p;
  };
  for (const shape& s : {shape{1, 6, 3, 300, 24, 20}, shape{1, 1, 1, 300, 37, 20}}) {
    const auto alone = run(s, heed::serial());
    support::for_each_executor([&](heed::executor_ref where, const char* name) {
      CAPTURE(name, where.concurrency, s.H);
      const auto p = run(s, where);
      CHECK(same_result(p, alone));
      CHECK(same_gradients(p, alone));
      CHECK(same_bits<float, 2>(p.dslopes, alone.dslopes));
    });
  }
}

TEST_CASE("Lightning Attention: rows may lie in any way") {
  lightning_problem<float> p({2, 4, 2, 70, 10, 7});
  heed::lightning_forward(p.q, p.k, p.v, p.slopes, p.out);
  for (const support::layout where : support::layouts) {
    auto q = support::laid_out<float, 4>(p.q, where), k = support::laid_out<float, 4>(p.k, where);
    auto v = support::laid_out<float, 4>(p.v, where);
    support::guarded<float, 4> out({2, 4, 70, 7}, where, support::quiet_nan<float>, 42);
    heed::lightning_forward(q.all(), k.all(), v.all(), p.slopes, out.all());
    CHECK(same_bits<float, 4>(p.out, out.all()));
    CHECK(out.intact());
  }
}

TEST_CASE("Lightning Attention needs the scratch that it says, and no more") {
  lightning_problem<float> p({2, 4, 2, 200, 20, 12});
  std::vector<std::byte> memory;
  const auto lend = [&](index_t bytes) {
    memory.assign(static_cast<std::size_t>(bytes), std::byte{0xff});
    return heed::scratch_view{memory.data(), bytes};
  };
  const index_t forward = heed::lightning_forward_scratch_bytes<float>(p.q, p.k, p.v);
  const index_t backward = heed::lightning_backward_scratch_bytes<float>(p.q, p.k, p.v);
  const index_t step = heed::lightning_step_scratch_bytes<float>(p.q, p.k, p.v);
  CHECK_NOTHROW(heed::lightning_forward(p.q, p.k, p.v, p.slopes, p.out, {.scratch = lend(forward)}));
  CHECK_NOTHROW(
      heed::lightning_backward(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv, {.scratch = lend(backward)}));
  CHECK_NOTHROW(heed::lightning_step(p.q, p.k, p.v, p.slopes, p.out, p.initial_state, {.scratch = lend(step)}));
  CHECK_THROWS(heed::lightning_forward(p.q, p.k, p.v, p.slopes, p.out, {.scratch = lend(forward - 1)}));
  CHECK_THROWS(
      heed::lightning_backward(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv, {.scratch = lend(backward - 1)}));
  CHECK_THROWS(heed::lightning_step(p.q, p.k, p.v, p.slopes, p.out, p.initial_state, {.scratch = lend(step - 1)}));
}

TEST_CASE("Lightning Attention refuses slopes and states that make no sense") {
  lightning_problem<float> p({2, 4, 2, 20, 8, 8});
  const auto forward = [&](auto... said) {
    return [&, parts = std::vector<std::string>{said...}](const recurrence_options<float>& options) {
      check_refusal("lightning_forward", parts,
                    [&] { heed::lightning_forward(p.q, p.k, p.v, p.slopes, p.out, options); });
    };
  };
  for (const float wrong : {-0.1f, support::quiet_nan<float>}) {
    p.slopes(2) = wrong;
    forward("slopes", "at least 0")({});
    check_refusal("lightning_backward", {"slopes"},
                  [&] { heed::lightning_backward(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv); });
    check_refusal("lightning_step", {"slopes"},
                  [&] { heed::lightning_step(p.q, p.k, p.v, p.slopes, p.out, p.initial_state); });
  }
  p.slopes(2) = 0.2f;
  tensor<float, 4> of_kv_heads({2, 2, 8, 8});
  forward("options.initial_state", "heads that have a state")({.initial_state = of_kv_heads});
  forward("options.final_state")({.final_state = of_kv_heads});
  forward("options.scale")({.scale = infinity});
  forward("options.chunk")({.chunk = 0});
  forward("options.q_offset")({.q_offset = 1});
  tensor<float, 4> states({3, 4, 8, 8});
  forward("options.final_state", "options.initial_state")(
      {.initial_state = states.all().slice(0, 0, 2), .final_state = states.all().slice(0, 1, 3)});
  check_refusal("lightning_step", {"state"},
                [&] { heed::lightning_step(p.q, p.k, p.v, p.slopes, p.out, of_kv_heads); });
  check_refusal("lightning_step", {"state", "null"},
                [&] { heed::lightning_step(p.q, p.k, p.v, p.slopes, p.out, view<float, 4>{}); });
  tensor<float, 2> short_slopes({2, 3});
  check_refusal("lightning_backward", {"dslopes"},
                [&] { heed::lightning_backward(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv, short_slopes); });
  check_refusal("lightning_forward", {"slopes.extent(0)"},
                [&] { heed::lightning_forward(p.q, p.k, p.v, tensor<float, 1>({3}), p.out); });
}
