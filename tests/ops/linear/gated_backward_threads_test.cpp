#include "ops/linear/gated_backward.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <cstdint>
#include <vector>

using namespace linear_test;
using support::for_each_executor;

namespace {

/// Fewer recurrences than workers and more, longer than the chunks that are worked on at once, by one chunk too, of one
/// chunk, empty ones.
const shape shapes[] = {{1, 1, 1, 300, 33, 20}, {1, 4, 2, 150, 16, 8}, {2, 8, 8, 40, 8, 8}, {1, 2, 1, 0, 8, 8},
                        {1, 2, 1, 130, 8, 8},   {1, 1, 1, 40, 8, 8},   {1, 6, 1, 90, 64, 5}};

void check_executor(heed::executor_ref where, const char* name) {
  for (const shape& s : shapes)
    for (const gates kind : gate_kinds)
      for (const index_t chunk : {2, 64}) {
        backward_problem<float> p(s), alone(s);
        recurrence_backward_options<float> options{
            .chunk = chunk, .initial_state = p.initial_state, .dfinal_state = p.dfinal_state};
        options.executor = heed::serial();
        solve(alone, kind, options);
        options.executor = where;
        solve(p, kind, options);
        CAPTURE(name, where.concurrency, s.N, static_cast<int>(kind), chunk);
        CHECK(same_gradients(p, alone));
      }
}

}  // namespace

TEST_CASE("gradients are bit-equal in whatever order and by whatever worker tasks are run") {
  for_each_executor(check_executor);
}

#if defined(_OPENMP)
TEST_CASE("gradients are bit-equal for any number of threads") {
  for (int threads = 1; threads <= 5; ++threads) check_executor(heed::openmp(threads), "openmp");
}
#endif

TEST_CASE("gradients of packed sequences are bit-equal for any worker") {
  const std::vector<std::int32_t> cu{0, 140, 140, 150, 290};
  for_each_executor([&](heed::executor_ref where, const char* name) {
    backward_problem<float> p({1, 2, 1, 290, 20, 12}, 4, 1, 4), alone({1, 2, 1, 290, 20, 12}, 4, 1, 4);
    for (backward_problem<float>* x : {&p, &alone})
      solve<float>(*x, gates::feature,
                   {.chunk = 2,
                    .initial_state = x->initial_state,
                    .dfinal_state = x->dfinal_state,
                    .cu_seqlens = cu,
                    .executor = x == &p ? where : heed::serial()});
    CAPTURE(name, where.concurrency);
    CHECK(same_gradients(p, alone));
  });
}
