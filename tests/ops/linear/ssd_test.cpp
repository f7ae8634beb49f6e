#include "ops/linear/ssd.hpp"

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

constexpr double rates[] = {0.02, 1, 30};
constexpr head_counts many_heads[] = {{2, 2}, {4, 2}, {3, 1}, {1, 1}, {6, 3}, {8, 1}};

template <class T>
void check_grid() {
  unsigned round = 0;
  for (const index_t N : lengths())
    for (const index_t S : head_sizes)
      for (const index_t P : head_sizes) {
        if (!is_in_grid<T>(N, S, P)) continue;
        const head_counts heads = many_heads[round % std::size(many_heads)];
        const double fastest = rates[round / 2 % std::size(rates)];
        CAPTURE(heads.heads, heads.groups, N, S, P, fastest, round);
        ssd_problem<T> p({1 + round % 2, heads.heads, heads.groups, N, S, P}, fastest, round);
        recurrence_backward_options<T> options;
        if (round % 4 != 0) options.initial_state = p.initial_state;
        if (round % 3 != 0) options.dfinal_state = p.dfinal_state;
        if (round % 5 == 1) options.scale = -0.6;
        options.reverse = round % 7 == 3;
        CHECK(error_of<T>(p, options) <= 1);
        ++round;
      }
}

}  // namespace

TEST_CASE("state space duality and its gradients agree with their definition for every length and size") {
  check_grid<float>();
}

TEMPLATE_TEST_CASE("state space duality agrees with its definition for every element type", "", double, heed::bfloat16,
                   heed::float16) {
  check_grid<TestType>();
}

TEST_CASE("state space duality agrees with its definition on every distinct instruction set") {
  support::for_each_distinct_arch([](auto arch) {
    using Arch = decltype(arch);
    CAPTURE(Arch::name());
    for (const double fastest : {0.3, 30.0}) {
      ssd_problem<float> p({2, 4, 2, 100, 33, 20}, fastest);
      CHECK(error_on<Arch, float>(p, {.initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
    }
  });
}

TEST_CASE("state space duality: chunks of any size, packed sequences") {
  for (const index_t chunk : {1, 3, 16, 64, 300}) {
    ssd_problem<float> p({1, 4, 2, 230, 12, 11}, 1, 1, 6);
    const std::vector<std::int32_t> cu{0, 70, 70, 71, 200, 200, 230};
    CHECK(error_of<float>(p, {.chunk = chunk, .initial_state = p.initial_state, .cu_seqlens = cu}) <= 1);
  }
}

TEST_CASE("state space duality: steps of 0 leave the state alone, rates of 0 never forget") {
  ssd_problem<float> p({1, 2, 1, 90, 12, 11}, 2);
  for (index_t t = 30; t < 90; ++t) p.dt(0, 0, t) = p.dt(0, 1, t) = 0;
  CHECK(error_of<float>(p, {.initial_state = p.initial_state, .dfinal_state = p.dfinal_state}) <= 1);
  ssd_problem<float> shorter({1, 2, 1, 30, 12, 11});
  const auto first = [](const auto& t) { return t.all().slice(2, 0, 30); };
  const auto& given = std::as_const(p);
  heed::ssd_forward(first(given.x), first(given.dt), p.a, first(given.b), first(given.c), {}, shorter.y,
                    {.initial_state = p.initial_state, .final_state = shorter.final_state});
  CHECK(error<float>(shorter.final_state, reference::in_double(p.final_state)) <= 1);
}

TEST_CASE("state space duality without a skip is that with one of 0") {
  ssd_problem<float> with({2, 4, 2, 70, 12, 16}), without({2, 4, 2, 70, 12, 16});
  with.d_skip.fill(0);
  solve_on<heed::default_arch, float>(with);
  heed::ssd_forward(without.x, without.dt, without.a, without.b, without.c, {}, without.y,
                    {.final_state = without.final_state});
  heed::ssd_backward(without.x, without.dt, without.a, without.b, without.c, {}, without.dy, without.dx, without.ddt,
                     without.da, without.db, without.dc, {}, {.dinitial_state = without.dinitial_state});
  without.dd_skip = with.dd_skip;
  CHECK(same_bits_of_all(with, without));
}

TEST_CASE("state space duality: steps continue a sequence") {
  for (const index_t together : {1, 3}) {
    const index_t N = 66;
    ssd_problem<float> p({2, 4, 2, N, 17, 20});
    const ssd_expected expected = definition<float>(p, {.initial_state = p.initial_state});
    const auto& given = std::as_const(p);
    const auto part = [](const auto& t, index_t begin, index_t end) { return t.all().slice(2, begin, end); };
    tensor<float, 4>& state = p.initial_state;
    heed::ssd_forward(part(given.x, 0, 30), part(given.dt, 0, 30), p.a, part(given.b, 0, 30), part(given.c, 0, 30),
                      p.d_skip, p.y.all().slice(2, 0, 30), {.initial_state = state, .final_state = state});
    for (index_t t = 30; t < N; t += together)
      heed::ssd_step(part(given.x, t, t + together), part(given.dt, t, t + together), p.a,
                     part(given.b, t, t + together), part(given.c, t, t + together), p.d_skip,
                     p.y.all().slice(2, t, t + together), state);
    CHECK(error<float>(p.y, expected.y) <= 1);
    CHECK(error<float>(state, expected.final_state) <= 1);
  }
}

TEST_CASE("state space duality: any executor gives the same bits") {
  for (const ssd_shape& s : {ssd_shape{1, 1, 1, 300, 17, 20}, {1, 6, 3, 150, 8, 9}, {2, 8, 1, 40, 16, 16}}) {
    ssd_problem<float> alone(s);
    solve_on<heed::default_arch, float>(
        alone, {.chunk = 16, .initial_state = alone.initial_state, .executor = heed::serial()});
    support::for_each_executor([&](heed::executor_ref where, const char* name) {
      CAPTURE(name, where.concurrency, s.N);
      ssd_problem<float> p(s);
      solve_on<heed::default_arch, float>(p, {.chunk = 16, .initial_state = p.initial_state, .executor = where});
      CHECK(same_bits_of_all(p, alone));
    });
  }
}

TEST_CASE("state space duality: rows may lie in any way") {
  for (const index_t P : {7, 16}) {
    ssd_problem<float> p({2, 4, 2, 70, 10, P});
    solve_on<heed::default_arch, float>(p);
    for (const support::layout where : support::layouts) {
      auto x = support::laid_out<float, 4>(p.x, where), b = support::laid_out<float, 4>(p.b, where);
      auto c = support::laid_out<float, 4>(p.c, where), dy = support::laid_out<float, 4>(p.dy, where);
      support::guarded<float, 4> y({2, 4, 70, P}, where, support::quiet_nan<float>, 42);
      support::guarded<float, 4> dx({2, 4, 70, P}, where, support::quiet_nan<float>, 42);
      support::guarded<float, 4> dc({2, 2, 70, 10}, where, support::quiet_nan<float>, 42);
      heed::ssd_forward(x.all(), p.dt, p.a, b.all(), c.all(), p.d_skip, y.all());
      heed::ssd_backward(x.all(), p.dt, p.a, b.all(), c.all(), p.d_skip, dy.all(), dx.all(), p.ddt, p.da, p.db,
                         dc.all(), p.dd_skip);
      CHECK(same_bits<float, 4>(p.y, y.all()));
      CHECK(same_bits<float, 4>(p.dx, dx.all()));
      CHECK(same_bits<float, 4>(p.dc, dc.all()));
      CHECK((y.intact() && dx.intact() && dc.intact()));
    }
  }
}

TEST_CASE("state space duality needs the scratch that it says, and no more") {
  ssd_problem<float> p({2, 4, 2, 200, 20, 12});
  std::vector<std::byte> memory;
  const auto lend = [&](index_t bytes) {
    memory.assign(static_cast<std::size_t>(bytes), std::byte{0xff});
    return heed::scratch_view{memory.data(), bytes};
  };
  const auto forward = [&](index_t bytes) {
    heed::ssd_forward(p.x, p.dt, p.a, p.b, p.c, p.d_skip, p.y, {.scratch = lend(bytes)});
  };
  const auto backward = [&](index_t bytes) {
    heed::ssd_backward(p.x, p.dt, p.a, p.b, p.c, p.d_skip, p.dy, p.dx, p.ddt, p.da, p.db, p.dc, p.dd_skip,
                       {.scratch = lend(bytes)});
  };
  const auto step = [&](index_t bytes) {
    heed::ssd_step(p.x, p.dt, p.a, p.b, p.c, p.d_skip, p.y, p.initial_state, {.scratch = lend(bytes)});
  };
  CHECK_NOTHROW(forward(heed::ssd_forward_scratch_bytes<float>(p.x, p.b)));
  CHECK_NOTHROW(backward(heed::ssd_backward_scratch_bytes<float>(p.x, p.b)));
  CHECK_NOTHROW(step(heed::ssd_step_scratch_bytes<float>(p.x, p.b)));
  CHECK_THROWS(forward(heed::ssd_forward_scratch_bytes<float>(p.x, p.b) - 1));
  CHECK_THROWS(backward(heed::ssd_backward_scratch_bytes<float>(p.x, p.b) - 1));
  CHECK_THROWS(step(heed::ssd_step_scratch_bytes<float>(p.x, p.b) - 1));
}

TEST_CASE("state space duality refuses tensors that do not fit") {
  ssd_problem<float> p({2, 4, 2, 20, 8, 6});
  const auto forward = [&](std::vector<std::string> said, const auto& change) {
    ssd_problem<float> wrong = p;
    recurrence_options<float> options;
    change(wrong, options);
    check_refusal("ssd_forward", said, [&] {
      heed::ssd_forward(wrong.x, wrong.dt, wrong.a, wrong.b, wrong.c, wrong.d_skip, wrong.y, options);
    });
  };
  using options_of = recurrence_options<float>;
  forward({"a:", "at most 0"}, [](auto& w, options_of&) { w.a(1) = 0.1f; });
  forward({"a:", "finite"}, [](auto& w, options_of&) { w.a(1) = -std::numeric_limits<float>::infinity(); });
  forward({"a.extent(0)"}, [](auto& w, options_of&) { w.a = tensor<float, 1>({3}); });
  forward({"d_skip.extent(0)"}, [](auto& w, options_of&) { w.d_skip = tensor<float, 1>({3}); });
  forward({"dt.extent(2)"}, [](auto& w, options_of&) { w.dt = tensor<float, 3>({2, 4, 19}); });
  forward({"b.extent(1) (G)", "divisor"}, [](auto& w, options_of&) { w.b = tensor<float, 4>({2, 3, 20, 8}); });
  forward({"c.extent(3)"}, [](auto& w, options_of&) { w.c = tensor<float, 4>({2, 2, 20, 7}); });
  forward({"y.extent(3)"}, [](auto& w, options_of&) { w.y = tensor<float, 4>({2, 4, 20, 7}); });
  forward({"x.extent(3) (P)"}, [](auto& w, options_of&) { w.x = tensor<float, 4>({2, 4, 20, 0}); });
  forward({"options.q_offset"}, [](auto&, options_of& o) { o.q_offset = -1; });
  forward({"options.chunk"}, [](auto&, options_of& o) { o.chunk = 0; });
  forward({"options.initial_state"}, [&](auto&, options_of& o) { o.initial_state = p.x; });
  check_refusal("ssd_forward", {"y", "overlap"}, [&] { heed::ssd_forward(p.x, p.dt, p.a, p.b, p.c, p.d_skip, p.x); });
  const auto backward = [&](std::vector<std::string> said, view<float, 2> da, view<const float, 1> d_skip,
                            view<float, 3> ddt) {
    check_refusal("ssd_backward", said, [&] {
      heed::ssd_backward(p.x, p.dt, p.a, p.b, p.c, d_skip, p.dy, p.dx, ddt, da, p.db, p.dc, p.dd_skip);
    });
  };
  backward({"dd_skip"}, p.da, {}, p.ddt);
  backward({"da.extent(1)"}, tensor<float, 2>({2, 3}), p.d_skip, p.ddt);
  backward({"dd_skip", "overlap"}, p.dd_skip, p.d_skip, p.ddt);
  backward({"ddt", "null"}, p.da, p.d_skip, view<float, 3>(nullptr, {2, 4, 20}));
  check_refusal("ssd_step", {"state", "null"},
                [&] { heed::ssd_step(p.x, p.dt, p.a, p.b, p.c, p.d_skip, p.y, view<float, 4>{}); });
}
