#include "ops/linear/gated.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <vector>

using namespace linear_test;
using support::for_each_executor;
using support::shuffling_executor;

namespace {

/// Fewer recurrences than workers and more, longer than the chunks that are worked on at once, empty ones.
const shape shapes[] = {
    {1, 1, 1, 300, 33, 20}, {1, 4, 2, 150, 16, 8}, {2, 8, 8, 40, 8, 8}, {1, 2, 1, 0, 8, 8}, {1, 3, 1, 90, 64, 5, 150}};

void check_executor(heed::executor_ref where, const char* name) {
  for (const shape& s : shapes)
    for (const gates kind : gate_kinds)
      for (const index_t chunk : {2, 64}) {
        problem<float> p(s), alone(s);
        recurrence_options<float> options{.chunk = chunk, .initial_state = p.initial_state};
        options.executor = heed::serial();
        solve(alone, kind, options);
        options.executor = where;
        solve(p, kind, options);
        CAPTURE(name, where.concurrency, s.N, static_cast<int>(kind), chunk);
        CHECK(same_result(p, alone));
      }
}

template <class S>
index_t scratch_bytes(const problem<S>& p, gates kind, const recurrence_options<S>& options) {
  return kind == gates::feature ? heed::gated_linear_forward_scratch_bytes<S>(p.q, p.k, p.v, p.feature_gates, options)
                                : heed::gated_linear_forward_scratch_bytes<S>(p.q, p.k, p.v, p.token_gates, options);
}

}  // namespace

TEST_CASE("results are bit-equal in whatever order and by whatever worker tasks are run") {
  for_each_executor(check_executor);
}

#if defined(_OPENMP)
TEST_CASE("results are bit-equal for any number of threads") {
  for (int threads = 1; threads <= 5; ++threads) check_executor(heed::openmp(threads), "openmp");
}
#endif

TEST_CASE("packed sequences are bit-equal for any worker, the state in place") {
  const std::vector<std::int32_t> cu{0, 140, 140, 150, 290};
  for_each_executor([&](heed::executor_ref where, const char* name) {
    problem<float> p({1, 2, 1, 290, 20, 12}, 4, 1, 4), alone({1, 2, 1, 290, 20, 12}, 4, 1, 4);
    for (problem<float>* x : {&p, &alone}) {
      x->final_state = x->initial_state;
      solve<float>(*x, gates::feature,
                   {.chunk = 2,
                    .initial_state = x->final_state,
                    .cu_seqlens = cu,
                    .executor = x == &p ? where : heed::serial()});
    }
    CAPTURE(name, where.concurrency);
    CHECK(same_result(p, alone));
  });
}

TEMPLATE_TEST_CASE("a call needs the scratch it says and no more, allocates nothing, and NaN in it changes nothing", "",
                   float, heed::bfloat16) {
  for (const shape& s : shapes)
    for (const gates kind : gate_kinds)
      for (const index_t workers : {1, 3}) {
        problem<TestType> p(s), alone(s);
        solve<TestType>(alone, kind, {.initial_state = alone.initial_state, .executor = heed::serial()});
        shuffling_executor shuffled(shuffling_executor::order::shuffled, workers);
        const heed::executor_ref where = workers == 1 ? heed::serial() : heed::executor(shuffled);
        recurrence_options<TestType> options{.initial_state = p.initial_state, .executor = where};
        const index_t bytes = scratch_bytes<TestType>(p, kind, options);
        std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 65), 0xff);
        options.scratch = {memory.data() + 1, bytes};
        heed::release_scratch();
        const long allocations = support::allocations_of([&] { solve<TestType>(p, kind, options); });
        CAPTURE(s.N, static_cast<int>(kind), workers, bytes);
        if (workers == 1) CHECK(allocations == 0);
        CHECK(same_result(p, alone));
        CHECK(memory[0] == 0xff);
        for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
        options.scratch = {memory.data() + 1, bytes - 1};
        CHECK_THROWS_AS((solve<TestType>(p, kind, options)), heed::invalid_argument);
      }
}

TEST_CASE("without scratch only a thread's first call allocates") {
  problem<float> p({2, 4, 2, 70, 33, 20});
  const auto call = [&] { solve<float>(p, gates::feature, {.executor = heed::serial()}); };
  heed::release_scratch();
  CHECK(support::allocations_of(call) == 1);
  CHECK(support::allocations_of(call) == 0);
}
