#include "ops/linear/gated_slot.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <vector>

using namespace linear_test;
using support::for_each_executor;

namespace {

/// Fewer recurrences than workers and more, longer than the chunks that are worked on at once, by one chunk too, of one
/// chunk, empty ones.
const slot_shape shapes[] = {{1, 1, 1, 300, 33, 20, 40}, {1, 4, 2, 150, 16, 8, 16}, {2, 8, 8, 40, 8, 8, 5},
                             {1, 2, 1, 0, 8, 8, 8},      {1, 2, 1, 130, 8, 8, 8},   {1, 1, 1, 40, 8, 8, 8}};

void check_executor(heed::executor_ref where, const char* name) {
  for (const slot_shape& s : shapes)
    for (const index_t chunk : {2, 64}) {
      slot_problem<float> p(s), alone(s);
      gated_slot_options<float> options{
          .chunk = chunk, .initial_keys = p.initial_keys, .initial_values = p.initial_values};
      options.executor = heed::serial();
      solve(alone, options);
      options.executor = where;
      solve(p, options);
      CAPTURE(name, where.concurrency, s.N, chunk);
      CHECK(same_result(p, alone));
    }
}

}  // namespace

TEST_CASE("results of slots are bit-equal in whatever order and by whatever worker tasks are run") {
  for_each_executor(check_executor);
}

#if defined(_OPENMP)
TEST_CASE("results of slots are bit-equal for any number of threads") {
  for (int threads = 1; threads <= 5; ++threads) check_executor(heed::openmp(threads), "openmp");
}
#endif

TEST_CASE("packed sequences of slots are bit-equal for any worker, the slots in place") {
  const std::vector<std::int32_t> cu{0, 140, 140, 150, 290};
  const slot_shape s{1, 2, 1, 290, 20, 12, 9};
  for_each_executor([&](heed::executor_ref where, const char* name) {
    slot_problem<float> p(s, 4, 1, strengths::tied, 4), alone(s, 4, 1, strengths::tied, 4);
    for (slot_problem<float>* x : {&p, &alone}) {
      x->final_keys = x->initial_keys;
      x->final_values = x->initial_values;
      solve<float>(*x, {.chunk = 2,
                        .initial_keys = x->final_keys,
                        .initial_values = x->final_values,
                        .cu_seqlens = cu,
                        .executor = x == &p ? where : heed::serial()});
    }
    CAPTURE(name, where.concurrency);
    CHECK(same_result(p, alone));
  });
}
