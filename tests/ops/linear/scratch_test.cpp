// Memory of the calls of this family.
#include "ops/linear/agent.hpp"
#include "ops/linear/efficient.hpp"
#include "ops/linear/gated_backward.hpp"
#include "ops/linear/gated_slot_backward.hpp"
#include "ops/linear/gated_slot_step.hpp"
#include "ops/linear/gated_step.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <vector>

using namespace linear_test;
using support::shuffling_executor;

namespace {

/// Elements that are converted, for which calls keep the most copies.
using stored = heed::bfloat16;

/// call(options) must do with `bytes` of scratch that are full of NaN, which is what `same()` sees to, and allocate
/// nothing.
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
}

/// A byte less is refused.
template <class Options, class Call>
void check_least(index_t bytes, Options options, const Call& call) {
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes));
  options.scratch = {memory.data(), bytes - 1};
  CHECK_THROWS_AS(call(options), heed::invalid_argument);
}

/// f(executor) with one worker and with three.
template <class F>
void for_workers(const F& f) {
  f(heed::serial());
  shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
  f(heed::executor(shuffled));
}

const shape shapes[] = {{1, 1, 1, 300, 33, 20}, {1, 4, 2, 150, 16, 8}, {2, 8, 8, 40, 8, 8}, {1, 6, 1, 90, 64, 5}};
const slot_shape slot_shapes[] = {{1, 1, 1, 300, 33, 20, 40}, {1, 4, 2, 150, 16, 8, 16}, {2, 8, 8, 40, 8, 8, 5}};

}  // namespace

TEST_CASE("gated_linear_forward needs the scratch it says, and no more") {
  for (const shape& s : shapes)
    for (const gates kind : gate_kinds) {
      problem<stored> alone(s);
      solve<stored>(alone, kind, {.executor = heed::serial()});
      for_workers([&](heed::executor_ref where) {
        problem<stored> p(s);
        const recurrence_options<stored> options{.executor = where};
        const index_t bytes = heed::gated_linear_forward_scratch_bytes<stored>(p.q, p.k, p.v, options);
        const auto call = [&](const auto& o) { solve<stored>(p, kind, o); };
        CAPTURE(s.N, static_cast<int>(kind));
        check_scratch(bytes, options, call, [&] { return same_result(p, alone); });
        if (kind == gates::feature) check_least(bytes, options, call);
      });
    }
}

TEST_CASE("gated_linear_backward needs the scratch it says, and no more") {
  for (const shape& s : shapes)
    for (const gates kind : gate_kinds) {
      backward_problem<stored> alone(s);
      solve<stored>(alone, kind, {.executor = heed::serial()});
      for_workers([&](heed::executor_ref where) {
        backward_problem<stored> p(s);
        const recurrence_backward_options<stored> options{.executor = where};
        const index_t bytes = heed::gated_linear_backward_scratch_bytes<stored>(p.q, p.k, p.v, options);
        const auto call = [&](const auto& o) { solve<stored>(p, kind, o); };
        CAPTURE(s.N, static_cast<int>(kind));
        check_scratch(bytes, options, call, [&] { return same_gradients(p, alone); });
        if (kind == gates::feature) check_least(bytes, options, call);
      });
    }
}

TEST_CASE("gated_linear_step needs the scratch it says, and no more") {
  for (const shape& s : {shape{1, 8, 1, 3, 33, 20}, shape{2, 4, 4, 1, 64, 64}})
    for (const gates kind : gate_kinds) {
      problem<stored> alone(s);
      step_through<stored>(alone, kind, s.N, {.executor = heed::serial()});
      for_workers([&](heed::executor_ref where) {
        problem<stored> p(s);
        const recurrence_step_options<stored> options{.executor = where};
        const index_t bytes = heed::gated_linear_step_scratch_bytes<stored>(p.q, p.k, p.v, options);
        p.final_state = p.initial_state;
        const auto call = [&](const auto& o) { step_on<heed::default_arch, stored>(p, kind, 0, s.N, o); };
        CAPTURE(s.N, static_cast<int>(kind));
        check_scratch(bytes, options, call, [&] { return same_result(p, alone); });
        if (kind == gates::feature) check_least(bytes, options, call);
      });
    }
}

TEST_CASE("gated_slot_forward needs the scratch it says, and no more") {
  for (const slot_shape& s : slot_shapes) {
    slot_problem<stored> alone(s);
    solve<stored>(alone, {.executor = heed::serial()});
    for_workers([&](heed::executor_ref where) {
      slot_problem<stored> p(s);
      const gated_slot_options<stored> options{.executor = where};
      const index_t bytes = heed::gated_slot_forward_scratch_bytes<stored>(p.q, p.k, p.v, s.S, options);
      const auto call = [&](const auto& o) { solve<stored>(p, o); };
      CAPTURE(s.N);
      check_scratch(bytes, options, call, [&] { return same_result(p, alone); });
      check_least(bytes, options, call);
    });
  }
}

TEST_CASE("gated_slot_backward needs the scratch it says, and no more") {
  for (const slot_shape& s : slot_shapes) {
    slot_backward_problem<stored> alone(s);
    solve<stored>(alone, {.executor = heed::serial()});
    for_workers([&](heed::executor_ref where) {
      slot_backward_problem<stored> p(s);
      p.scores = alone.scores;
      gated_slot_backward_options<stored> options{.executor = where};
      const index_t bytes = heed::gated_slot_backward_scratch_bytes<stored>(p.q, p.k, p.v, s.S, options);
      options.dinitial_keys = p.dinitial_keys;
      options.dinitial_values = p.dinitial_values;
      const auto call = [&](const auto& o) {
        heed::gated_slot_backward(p.q, p.k, p.v, p.s, p.g, p.scores, p.dout, p.dq, p.dk, p.dv, p.ds, p.dg, o);
      };
      CAPTURE(s.N);
      check_scratch(bytes, options, call, [&] { return same_gradients(p, alone); });
      check_least(bytes, options, call);
    });
  }
}

TEST_CASE("gated_slot_step needs the scratch it says, and no more") {
  for (const slot_shape& s : {slot_shape{1, 8, 1, 3, 33, 20, 18}, slot_shape{2, 4, 4, 1, 64, 64, 64}}) {
    slot_problem<stored> alone(s);
    step_through<stored>(alone, s.N, {.executor = heed::serial()});
    for_workers([&](heed::executor_ref where) {
      slot_problem<stored> p(s);
      const gated_slot_step_options<stored> options{.executor = where};
      const index_t bytes = heed::gated_slot_step_scratch_bytes<stored>(p.q, p.k, p.v, s.S, options);
      p.final_keys = p.initial_keys;
      p.final_values = p.initial_values;
      const auto call = [&](const auto& o) { step_on<heed::default_arch, stored>(p, 0, s.N, o); };
      CAPTURE(s.N);
      check_scratch(bytes, options, call, [&] { return same_result(p, alone); });
      check_least(bytes, options, call);
    });
  }
}

TEST_CASE("without scratch only a thread's first call allocates") {
  problem<stored> p({2, 4, 2, 70, 33, 20});
  slot_problem<stored> slots({2, 4, 2, 70, 33, 20, 10});
  const auto check = [](const auto& call) {
    heed::release_scratch();
    CHECK(support::allocations_of(call) == 1);
    CHECK(support::allocations_of(call) == 0);
  };
  for (const gates kind : gate_kinds) {
    check([&] { solve<stored>(p, kind, {.executor = heed::serial()}); });
    check([&] { step_on<heed::default_arch, stored>(p, kind, 0, 1, {.executor = heed::serial()}); });
  }
  check([&] { solve<stored>(slots, {.executor = heed::serial()}); });
  check([&] { step_on<heed::default_arch, stored>(slots, 0, 1, {.executor = heed::serial()}); });
}

TEST_CASE("agent attention needs the scratch it says, and no more") {
  const agent_shape s{2, 4, 2, 150, 9, 170, 24, 20};
  for (const bool values_given : {false, true}) {
    agent_problem<stored> alone(s);
    solve<stored>(alone, {.agent_bias = alone.agent_bias});
    for_workers([&](heed::executor_ref where) {
      agent_problem<stored> p(s);
      agent_options<stored> forward{
          .agent_bias = p.agent_bias, .agent_lse = p.agent_lse, .lse = p.lse, .executor = where};
      if (values_given) forward.agent_values = p.agent_values;
      const index_t bytes = heed::agent_forward_scratch_bytes<stored>(p.a, p.v, forward);
      const auto call = [&](const auto& o) { heed::agent_forward(p.q, p.a, p.k, p.v, p.out, o); };
      CAPTURE(values_given);
      check_scratch(bytes, forward, call, [&] { return same_bits<stored, 4>(p.out, alone.out); });
      check_least(bytes, forward, call);
      p.agent_values = alone.agent_values;
      const auto backward = backward_options(p, forward);
      const index_t more = heed::agent_backward_scratch_bytes<stored>(p.q, p.a, p.k, p.v, backward);
      const auto back = [&](const auto& o) {
        heed::agent_backward(p.q, p.a, p.k, p.v, p.out, p.agent_values, p.agent_lse, p.lse, p.dout, p.dq, p.da, p.dk,
                             p.dv, o);
      };
      check_scratch(more, backward, back, [&] { return same_result(p, alone); });
      check_least(more, backward, back);
    });
  }
}

TEST_CASE("efficient attention needs the scratch it says, and no more") {
  for (const efficient_shape& s :
       {efficient_shape{2, 4, 2, 150, 170, 24, 20}, efficient_shape{1, 1, 1, 600, 2500, 16, 8}})
    for (const efficient_mode mode : efficient_modes) {
      efficient_problem<stored> alone(s);
      solve<stored>(alone, {.mode = mode});
      for_workers([&](heed::executor_ref where) {
        efficient_problem<stored> p(s);
        efficient_options<stored> forward{.mode = mode, .executor = where};
        if (mode == efficient_mode::softmax) {
          forward.key_max = p.key_max;
          forward.key_sum = p.key_sum;
        }
        const index_t bytes = heed::efficient_forward_scratch_bytes<stored>(p.q, p.k, p.v, forward);
        const auto call = [&](const auto& o) { heed::efficient_forward(p.q, p.k, p.v, p.out, o); };
        CAPTURE(s.N, static_cast<int>(mode));
        check_scratch(bytes, forward, call, [&] { return same_bits<stored, 4>(p.out, alone.out); });
        check_least(bytes, forward, call);
        const heed::efficient_backward_options<stored> backward{.mode = mode, .executor = where};
        const index_t more = heed::efficient_backward_scratch_bytes<stored>(p.q, p.k, p.v, backward);
        const auto back = [&](const auto& o) {
          heed::efficient_backward(p.q, p.k, p.v, p.key_max, p.key_sum, p.dout, p.dq, p.dk, p.dv, o);
        };
        check_scratch(more, backward, back, [&] { return same_result(p, alone); });
        check_least(more, backward, back);
      });
    }
}
