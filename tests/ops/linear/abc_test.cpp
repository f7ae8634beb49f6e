#include "ops/linear/abc.hpp"

#include "ops/linear/gated_slot_grid.hpp"
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

constexpr float never = -std::numeric_limits<float>::infinity();
constexpr double deviations[] = {0.1, 1, 8, 60};

template <class S>
void check_grid() {
  unsigned round = 0;
  for (const index_t N : lengths())
    for (const index_t D : head_sizes)
      for (const index_t slots : head_sizes) {
        if (!is_in_grid<S>(N, D, slots)) continue;
        const head_counts heads = groupings[round % std::size(groupings)];
        const double deviation = deviations[round / 2 % std::size(deviations)];
        const index_t E = head_sizes[(round + static_cast<unsigned>(N)) % std::size(head_sizes)];
        CAPTURE(heads.heads, heads.groups, N, D, E, slots, deviation, round);
        abc_problem<S> p({1 + round % 2, heads.heads, heads.groups, N, D, E, slots}, deviation, round);
        abc_backward_options<S> options;
        if (round % 4 != 0) options = with_history(p);
        if (round % 8 == 3) options.initial_log_sums = {};
        if (round % 5 == 1) options.scale = -0.6;
        CHECK(error_of<S>(p, options) <= 1);
        ++round;
      }
}

}  // namespace

TEST_CASE("ABC and its gradients agree with their definition for every length, head size and number of slots") {
  check_grid<float>();
}

TEMPLATE_TEST_CASE("ABC and its gradients agree with their definition for every element type", "", double,
                   heed::bfloat16, heed::float16) {
  check_grid<TestType>();
}

TEST_CASE("ABC agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    for (const double deviation : {1.0, 60.0}) {
      abc_problem<float> p({2, 4, 2, 100, 33, 20, 19}, deviation);
      CHECK(error_on<A, float>(p, with_history(p)) <= 1);
    }
  });
}

TEST_CASE("ABC is attention to means of keys and values, weighted by the exponentials of the logits") {
  for (const index_t chunk : {1, 16, 64}) {
    abc_problem<float> p({2, 4, 2, 90, 10, 7, 12}, 3);
    solve<float>(p, {.chunk = chunk});
    const reference::bounded_memory quotient{reference::in_double(p.q), reference::in_double(p.k),
                                             reference::in_double(p.v), reference::in_double(p.s), 1 / std::sqrt(10.0)};
    CHECK(error<float>(p.out, reference::bounded_memory_attention(quotient)) <= 1);
    const reference::bounded_memory_gradients expected =
        reference::bounded_memory_backward(quotient, reference::in_double(p.dout));
    CHECK(error<float>(p.dq, expected.dq, gradient_tolerance<float>) <= 1);
    CHECK(error<float>(p.ds, expected.ds, gate_gradient_tolerance<float>) <= 1);
  }
}

TEST_CASE("ABC: gradients by logits and log sums are those of differences") {
  abc_problem<double> p({1, 2, 1, 21, 4, 3, 5}, 1.5);
  const abc_backward_options<double> options = [&] {
    auto with = with_history(p);
    with.chunk = 8;
    return with;
  }();
  solve<double>(p, options);
  abc_problem<double> other = p;
  const auto dot = [](const auto& a, const auto& b) {
    double sum = 0;
    for (index_t i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
    return sum;
  };
  const auto loss = [&] {
    heed::abc_forward(other.q, other.k, other.v, other.s, other.out,
                      {.initial_keys = other.initial_keys,
                       .initial_values = other.initial_values,
                       .initial_log_sums = other.initial_sums,
                       .final_keys = other.final_keys,
                       .final_values = other.final_values,
                       .final_log_sums = other.final_sums});
    return dot(other.out, other.dout) + dot(other.final_keys, other.dfinal_keys) +
           dot(other.final_values, other.dfinal_values) + dot(other.final_sums, other.dfinal_sums);
  };
  const auto check = [&](double& x, double gradient) {
    const double at = x, step = 1e-5;
    x = at + step;
    const double above = loss();
    x = at - step;
    const double below = loss();
    x = at;
    CHECK(gradient == Approx((above - below) / (2 * step)).epsilon(1e-6).margin(1e-8));
  };
  for (index_t i = 0; i < p.s.size(); ++i) check(other.s.data()[i], p.ds.data()[i]);
  for (index_t i = 0; i < p.initial_sums.size(); ++i) check(other.initial_sums.data()[i], p.dinitial_sums.data()[i]);
  for (index_t i = 0; i < p.k.size(); i += 3) check(other.k.data()[i], p.dk.data()[i]);
  for (index_t i = 0; i < p.initial_keys.size(); ++i) check(other.initial_keys.data()[i], p.dinitial_keys.data()[i]);
}

TEST_CASE("ABC: chunks of any size give the same result") {
  for (const index_t N : {0, 1, 15, 64, 65, 200})
    for (const index_t chunk : {index_t(1), index_t(3), index_t(16), index_t(64), N + 5, index_t(1) << 40})
      for (const double deviation : {1.0, 60.0}) {
        CAPTURE(N, chunk, deviation);
        abc_problem<float> p({2, 4, 2, N, 20, 12, 18}, deviation);
        auto options = with_history(p);
        options.chunk = chunk;
        CHECK(error_of<float>(p, options) <= 1);
      }
}

TEST_CASE("ABC: a sequence may be split anywhere, its state handed on in place") {
  const index_t N = 130;
  for (const bool history : {false, true})
    for (const index_t cut : {index_t(0), index_t(1), index_t(64), index_t(70), N}) {
      CAPTURE(history, cut);
      abc_problem<float> p({2, 4, 2, N, 17, 9, 10}, 2);
      const abc_backward_options<float> all = history ? with_history(p) : abc_backward_options<float>{};
      const auto expected = reference::controlled_slot(definition<float>(p, all));
      abc_options<float> options = forward_options(all);
      options.final_keys = history ? p.initial_keys : p.final_keys;
      options.final_values = history ? p.initial_values : p.final_values;
      options.final_log_sums = history ? p.initial_sums : p.final_sums;
      const auto& given = std::as_const(p);
      const auto run = [&](index_t begin, index_t end) {
        const auto part = [&](const auto& t) { return t.all().slice(2, begin, end); };
        heed::abc_forward(part(given.q), part(given.k), part(given.v), part(given.s), p.out.all().slice(2, begin, end),
                          options);
        options.initial_keys = options.final_keys;
        options.initial_values = options.final_values;
        options.initial_log_sums = options.final_log_sums;
      };
      run(0, cut);
      run(cut, N);
      CHECK(error<float>(p.out, expected.slots.out) <= 1);
      CHECK(error<float, 4>(options.final_keys, expected.slots.final_keys) <= 1);
      CHECK(error<float, 4>(options.final_values, expected.slots.final_values) <= 1);
      CHECK(error<float, 3>(options.final_log_sums, expected.final_sums) <= 1);
    }
}

TEST_CASE("ABC: steps continue a sequence, or begin one") {
  for (const index_t prefill : {0, 30})
    for (const index_t together : {1, 3}) {
      const index_t N = 66;
      abc_problem<float> p({2, 4, 2, N, 17, 20, 21}, 3);
      const auto expected = reference::controlled_slot(definition<float>(p, {}));
      const auto& given = std::as_const(p);
      const auto part = [](const auto& t, index_t begin, index_t end) { return t.all().slice(2, begin, end); };
      heed::abc_forward(part(given.q, 0, prefill), part(given.k, 0, prefill), part(given.v, 0, prefill),
                        part(given.s, 0, prefill), p.out.all().slice(2, 0, prefill),
                        {.final_keys = p.final_keys, .final_values = p.final_values, .final_log_sums = p.final_sums});
      for (index_t t = prefill; t < N; t += together)
        heed::abc_step(part(given.q, t, t + together), part(given.k, t, t + together), part(given.v, t, t + together),
                       part(given.s, t, t + together), p.out.all().slice(2, t, t + together), p.final_keys,
                       p.final_values, p.final_sums);
      CHECK(error<float>(p.out, expected.slots.out) <= 1);
      CHECK(error<float>(p.final_keys, expected.slots.final_keys) <= 1);
      CHECK(error<float>(p.final_values, expected.slots.final_values) <= 1);
      CHECK(error<float>(p.final_sums, expected.final_sums) <= 1);
    }
}

TEST_CASE("ABC: packed sequences are calls of their own") {
  const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
  for (const bool history : {false, true}) {
    abc_problem<float> p({1, 4, 2, 230, 12, 11, 9}, 1, 1, 6);
    abc_backward_options<float> options = history ? with_history(p) : abc_backward_options<float>{};
    options.cu_seqlens = cu;
    options.chunk = 16;
    CHECK(error_of<float>(p, options) <= 1);
  }
}

TEST_CASE("ABC: tokens may leave a slot alone, from the beginning or for good") {
  for (const bool history : {false, true}) {
    abc_problem<float> p({1, 2, 1, 100, 9, 8, 20});
    for (index_t t = 0; t < 100; ++t)
      for (index_t m = 0; m < 20; ++m)
        if (m == 3 || (m == 5 && t < 70) || (m == 7 && t > 2) || (m > 10 && t % 4 != m % 4)) p.s(0, 0, t, m) = never;
    if (history) p.initial_sums(0, 0, 5) = never;
    CHECK(error_of<float>(p, history ? with_history(p) : abc_backward_options<float>{}) <= 1);
    CHECK(p.final_sums(0, 0, 3) == (history ? p.initial_sums(0, 0, 3) : never));
    for (index_t t = 0; t < 100; ++t) CHECK(p.ds(0, 0, t, 3) == 0);
  }
}

TEST_CASE("ABC: logits so large that their exponentials overflow are like any others") {
  for (const float shift : {200.0f, -200.0f, 3000.0f}) {
    abc_problem<float> p({1, 2, 1, 100, 9, 8, 20}), shifted({1, 2, 1, 100, 9, 8, 20});
    for (float& x : p.s) x = std::round(x * 64) / 64;
    shifted.s = p.s;
    for (float& x : shifted.s) x += shift;
    solve<float>(p);
    solve<float>(shifted);
    CAPTURE(shift);
    CHECK(error<float>(shifted.out, reference::in_double(p.out), 1e-4) <= 1);
    CHECK(error<float>(shifted.ds, reference::in_double(p.ds), 1e-3) <= 1);
  }
}

TEST_CASE("ABC: the first output is the first value, one slot is a mean of values") {
  abc_problem<float> p({1, 2, 1, 80, 9, 8, 12}), one({1, 2, 1, 80, 9, 8, 1});
  solve<float>(p);
  solve<float>(one);
  for (index_t e = 0; e < 8; ++e) {
    CHECK(static_cast<double>(p.out(0, 1, 0, e)) == Approx(static_cast<double>(p.v(0, 0, 0, e))));
    double sum = 0, mean = 0;
    for (index_t t = 0; t < 80; ++t) {
      const double weight = std::exp(static_cast<double>(one.s(0, 0, t, 0)));
      sum += weight;
      mean += weight * static_cast<double>(one.v(0, 0, t, e));
    }
    CHECK(static_cast<double>(one.out(0, 0, 79, e)) == Approx(mean / sum).margin(1e-5));
  }
}

TEST_CASE("ABC: 65536 tokens stay within the bound of short sequences") {
  abc_problem<float> p({1, 2, 1, support::small_grid() ? 4096 : 65536, 8, 5, 7});
  CHECK(error_of<float>(p, with_history(p)) <= 1);
}

TEST_CASE("ABC: any executor gives the same bits") {
  for (const slot_shape& x : {slot_shape{1, 1, 1, 300, 17, 20, 37}, {1, 6, 3, 150, 8, 9, 10}, {2, 2, 2, 0, 8, 8, 8}}) {
    abc_problem<float> alone(x);
    abc_backward_options<float> options = with_history(alone);
    options.chunk = 16;
    options.executor = heed::serial();
    solve<float>(alone, options);
    support::for_each_executor([&](heed::executor_ref where, const char* name) {
      CAPTURE(name, where.concurrency, x.N);
      abc_problem<float> p(x);
      options.executor = where;
      solve<float>(p, options);
      CHECK(same_bits_of_all(p, alone));
    });
  }
}

TEST_CASE("ABC: rows may lie in any way") {
  abc_problem<float> p({2, 4, 2, 70, 10, 7, 9});
  heed::abc_forward(p.q, p.k, p.v, p.s, p.out, {.scores = p.scores});
  heed::abc_backward(p.q, p.k, p.v, p.s, p.scores, p.dout, p.dq, p.dk, p.dv, p.ds);
  for (const support::layout where : support::layouts) {
    auto q = support::laid_out<float, 4>(p.q, where), k = support::laid_out<float, 4>(p.k, where);
    auto v = support::laid_out<float, 4>(p.v, where), s = support::laid_out<float, 4>(p.s, where);
    support::guarded<float, 4> out({2, 4, 70, 7}, where, support::quiet_nan<float>, 42);
    support::guarded<float, 4> ds({2, 2, 70, 9}, where, support::quiet_nan<float>, 42);
    heed::abc_forward(q.all(), k.all(), v.all(), s.all(), out.all());
    heed::abc_backward(q.all(), k.all(), v.all(), s.all(), p.scores, p.dout, p.dq, p.dk, p.dv, ds.all());
    CHECK(same_bits<float, 4>(p.out, out.all()));
    CHECK(same_bits<float, 4>(p.ds, ds.all()));
    CHECK(out.intact());
    CHECK(ds.intact());
  }
}

TEST_CASE("ABC needs the scratch that it says, and no more") {
  abc_problem<float> p({2, 4, 2, 200, 20, 12, 16});
  std::vector<std::byte> memory;
  const auto lend = [&](index_t bytes) {
    memory.assign(static_cast<std::size_t>(bytes), std::byte{0xff});
    return heed::scratch_view{memory.data(), bytes};
  };
  const index_t forward = heed::abc_forward_scratch_bytes<float>(p.q, p.k, p.v, 16);
  const index_t backward = heed::abc_backward_scratch_bytes<float>(p.q, p.k, p.v, 16);
  const index_t step = heed::abc_step_scratch_bytes<float>(p.q, p.k, p.v, 16);
  const auto run_forward = [&](index_t bytes) {
    heed::abc_forward(p.q, p.k, p.v, p.s, p.out, {.scores = p.scores, .scratch = lend(bytes)});
  };
  const auto run_backward = [&](index_t bytes) {
    heed::abc_backward(p.q, p.k, p.v, p.s, p.scores, p.dout, p.dq, p.dk, p.dv, p.ds, {.scratch = lend(bytes)});
  };
  const auto run_step = [&](index_t bytes) {
    heed::abc_step(p.q, p.k, p.v, p.s, p.out, p.initial_keys, p.initial_values, p.initial_sums,
                   {.scratch = lend(bytes)});
  };
  CHECK_NOTHROW(run_forward(forward));
  CHECK_NOTHROW(run_backward(backward));
  CHECK_NOTHROW(run_step(step));
  CHECK_THROWS(run_forward(forward - 1));
  CHECK_THROWS(run_backward(backward - 1));
  CHECK_THROWS(run_step(step - 1));
  // What logits are turned into takes a chunk of scratch, however long the sequence is.
  abc_problem<float> longer({2, 4, 2, 2000, 20, 12, 16});
  CHECK(heed::abc_forward_scratch_bytes<float>(longer.q, longer.k, longer.v, 16, {.executor = heed::serial()}) ==
        heed::abc_forward_scratch_bytes<float>(p.q, p.k, p.v, 16, {.executor = heed::serial()}));
}

TEST_CASE("ABC refuses tensors that do not fit") {
  abc_problem<float> p({2, 4, 2, 20, 8, 6, 5});
  const auto forward = [&](std::vector<std::string> said, const abc_options<float>& options) {
    check_refusal("abc_forward", said, [&] { heed::abc_forward(p.q, p.k, p.v, p.s, p.out, options); });
  };
  tensor<float, 3> short_sums({2, 2, 4});
  tensor<float, 4> no_slots({2, 2, 20, 0}), few({2, 2, 19, 5});
  forward({"options.initial_log_sums.extent(2)", "S"}, {.initial_log_sums = short_sums});
  forward({"options.final_log_sums"}, {.final_log_sums = short_sums});
  forward({"options.initial_values", "neither"}, {.initial_keys = p.initial_keys});
  forward({"options.final_keys", "neither"}, {.final_values = p.final_values});
  forward({"options.final_values", "overlap"}, {.initial_keys = p.initial_keys,
                                                .initial_values = p.initial_values,
                                                .final_keys = p.final_keys,
                                                .final_values = view<float, 4>(p.initial_keys.data(), {2, 2, 5, 6})});
  forward({"options.chunk"}, {.chunk = 0});
  forward({"options.scale"}, {.scale = std::numeric_limits<double>::infinity()});
  check_refusal("abc_forward", {"s.extent(3)"}, [&] { heed::abc_forward(p.q, p.k, p.v, no_slots, p.out); });
  check_refusal("abc_forward", {"s.extent(2)"}, [&] { heed::abc_forward(p.q, p.k, p.v, few, p.out); });
  check_refusal("abc_backward", {"ds"},
                [&] { heed::abc_backward(p.q, p.k, p.v, p.s, p.scores, p.dout, p.dq, p.dk, p.dv, few); });
  check_refusal("abc_backward", {"ds", "overlap"},
                [&] { heed::abc_backward(p.q, p.k, p.v, p.s, p.scores, p.dout, p.dq, p.dk, p.dv, p.s); });
  check_refusal("abc_backward", {"options.dfinal_log_sums"}, [&] {
    heed::abc_backward(p.q, p.k, p.v, p.s, p.scores, p.dout, p.dq, p.dk, p.dv, p.ds, {.dfinal_log_sums = short_sums});
  });
  check_refusal("abc_step", {"log_sums"},
                [&] { heed::abc_step(p.q, p.k, p.v, p.s, p.out, p.initial_keys, p.initial_values, short_sums); });
  check_refusal("abc_step", {"log_sums", "null"},
                [&] { heed::abc_step(p.q, p.k, p.v, p.s, p.out, p.initial_keys, p.initial_values, view<float, 3>{}); });
}
