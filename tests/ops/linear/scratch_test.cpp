// Memory of the calls of this family.
#include "ops/linear/gated.hpp"
#include "ops/linear/gated_slot.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <vector>

using namespace linear_test;
using support::shuffling_executor;

namespace {

/// call(options) must do with `bytes` of scratch that are full of NaN, which is what `same()` sees to, with no byte less
/// and no allocation.
template <class Options, class Call, class Same>
void check_scratch(index_t bytes, Options options, const Call& call, const Same& same) {
  CAPTURE(bytes, options.executor.concurrency);
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 65), 0xff);
  options.scratch = {memory.data() + 1, bytes};
  heed::release_scratch();
  const long allocations = support::allocations_of([&] { call(options); });
  // The executor that shuffles keeps a list of tasks.
  if (options.executor.concurrency == 1) CHECK(allocations == 0);
  CHECK(same());
  CHECK(memory[0] == 0xff);
  for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
  if (bytes == 0) return;
  options.scratch = {memory.data() + 1, bytes - 1};
  CHECK_THROWS_AS(call(options), heed::invalid_argument);
}

/// f(executor) with one worker and with three.
template <class F>
void for_workers(const F& f) {
  f(heed::serial());
  shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
  f(heed::executor(shuffled));
}

const shape shapes[] = {{1, 1, 1, 300, 33, 20}, {1, 4, 2, 150, 16, 8}, {2, 8, 8, 40, 8, 8}, {1, 3, 1, 90, 64, 5, 150}};
const slot_shape slot_shapes[] = {{1, 1, 1, 300, 33, 20, 40}, {1, 4, 2, 150, 16, 8, 16}, {2, 8, 8, 40, 8, 8, 5}};

}  // namespace

TEMPLATE_TEST_CASE("gated_linear_forward needs the scratch it says, and no more", "", float, heed::bfloat16) {
  for (const shape& s : shapes)
    for (const gates kind : gate_kinds) {
      problem<TestType> alone(s);
      solve<TestType>(alone, kind, {.executor = heed::serial()});
      for_workers([&](heed::executor_ref where) {
        problem<TestType> p(s);
        const recurrence_options<TestType> options{.executor = where};
        const index_t bytes =
            kind == gates::feature
                ? heed::gated_linear_forward_scratch_bytes<TestType>(p.q, p.k, p.v, p.feature_gates, options)
                : heed::gated_linear_forward_scratch_bytes<TestType>(p.q, p.k, p.v, p.token_gates, options);
        CAPTURE(s.N, static_cast<int>(kind));
        check_scratch(
            bytes, options, [&](const auto& o) { solve<TestType>(p, kind, o); }, [&] { return same_result(p, alone); });
      });
    }
}

TEMPLATE_TEST_CASE("gated_slot_forward needs the scratch it says, and no more", "", float, heed::bfloat16) {
  for (const slot_shape& s : slot_shapes) {
    slot_problem<TestType> alone(s);
    solve<TestType>(alone, {.executor = heed::serial()});
    for_workers([&](heed::executor_ref where) {
      slot_problem<TestType> p(s);
      const gated_slot_options<TestType> options{.executor = where};
      const index_t bytes = heed::gated_slot_forward_scratch_bytes<TestType>(p.q, p.k, p.v, s.S, options);
      CAPTURE(s.N);
      check_scratch(
          bytes, options, [&](const auto& o) { solve<TestType>(p, o); }, [&] { return same_result(p, alone); });
    });
  }
}

TEST_CASE("without scratch only a thread's first call allocates") {
  problem<float> p({2, 4, 2, 70, 33, 20});
  slot_problem<float> slots({2, 4, 2, 70, 33, 20, 10});
  const auto check = [](const auto& call) {
    heed::release_scratch();
    CHECK(support::allocations_of(call) == 1);
    CHECK(support::allocations_of(call) == 0);
  };
  for (const gates kind : gate_kinds) check([&] { solve<float>(p, kind, {.executor = heed::serial()}); });
  check([&] { solve<float>(slots, {.executor = heed::serial()}); });
}
