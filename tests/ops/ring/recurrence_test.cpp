// Recurrences over several ranks against their definitions, whole sequences in one process.
#include "ops/linear/gated.hpp"
#include "ops/linear/gated_slot.hpp"
#include "reference/gated_slot.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

#include <heed/core/in_process.hpp>
#include <heed/ops/ring/gated_linear_forward.hpp>
#include <heed/ops/ring/gated_slot_forward.hpp>
#include <heed/ops/ring/lightning_forward.hpp>

#include <atomic>
#include <mutex>
#include <numeric>
#include <stdexcept>

using namespace linear_test;
using heed::in_process_group;
using heed::in_process_transport;
using heed::ring_gated_slot_options;
using heed::ring_recurrence_options;

namespace {

/// How many tokens each rank holds.
using parts = std::vector<index_t>;

index_t tokens_of(const parts& p) { return std::accumulate(p.begin(), p.end(), index_t(0)); }

/// Calls f(ranks, part of a tensor's tokens) on every rank.
template <class F>
void on_every_rank(const parts& cut, const F& f) {
  in_process_group group(static_cast<int>(cut.size()), 60);
  group.run([&](in_process_transport& ranks) {
    index_t begin = 0;
    for (int r = 0; r < ranks.rank(); ++r) begin += cut[static_cast<std::size_t>(r)];
    const index_t end = begin + cut[static_cast<std::size_t>(ranks.rank())];
    f(ranks, [=](auto& tensor) { return tensor.all().slice(2, begin, end); });
  });
}

/// As support::check_refusal, from several threads: Catch2 takes one assertion at a time.
template <class Call>
void check_refusal(const char* operation, const std::vector<std::string>& expected, const Call& call) {
  static std::mutex assertions;
  const std::string said = support::message_of(call);
  const std::lock_guard<std::mutex> lock(assertions);
  support::check_refusal(operation, expected, [&] { throw heed::invalid_argument(said.c_str()); });
}

const std::vector<parts> cuts = {{9}, {3, 6}, {0, 5, 4}, {1, 1, 0, 7, 1}, {70, 5, 64, 2}, {2, 0, 0, 0, 0, 0, 9, 3}};

template <class S>
ring_recurrence_options<S> with_states(ring_recurrence_options<S> options, problem<S>& p, int rank, int size) {
  if (rank == 0) options.initial_state = p.initial_state;
  if (rank + 1 == size) options.final_state = p.final_state;
  return options;
}

/// The worst error of a problem that is solved by ranks.
template <class S>
double error_by_ranks(problem<S>& p, gates kind, const parts& cut, const ring_recurrence_options<S>& options) {
  recurrence_options<S> whole;
  whole.initial_state = p.initial_state;
  const reference::recurrence_result expected = reference::scan(definition(p, kind, whole));
  on_every_rank(cut, [&](in_process_transport& ranks, const auto& part) {
    const auto own = with_states(options, p, ranks.rank(), ranks.size());
    if (kind == gates::feature)
      heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.feature_gates), part(p.out), own);
    else
      heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.token_gates), part(p.out), own);
  });
  return worse(error<S>(p.out, expected.out), error<typename problem<S>::T>(p.final_state, expected.final_state));
}

template <class S>
double error_by_ranks(slot_problem<S>& p, const parts& cut, const ring_gated_slot_options<S>& options) {
  using T = typename slot_problem<S>::T;
  gated_slot_options<S> whole;
  whole.initial_keys = p.initial_keys;
  whole.initial_values = p.initial_values;
  const auto expected = reference::gated_slot(definition(p, whole));
  on_every_rank(cut, [&](in_process_transport& ranks, const auto& part) {
    ring_gated_slot_options<S> own = options;
    own.scores = part(p.scores);
    if (ranks.rank() == 0) own.initial_keys = p.initial_keys, own.initial_values = p.initial_values;
    if (ranks.rank() + 1 == ranks.size()) own.final_keys = p.final_keys, own.final_values = p.final_values;
    heed::ring_gated_slot_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.s), part(p.g), part(p.out), own);
  });
  return worse(worse(error<S>(p.out, expected.out), error<T>(p.scores, expected.scores)),
               worse(error<T>(p.final_keys, expected.final_keys), error<T>(p.final_values, expected.final_values)));
}

}  // namespace

TEMPLATE_TEST_CASE("ring_gated_linear_forward agrees with the definition of the whole", "", float, heed::bfloat16) {
  for (const parts& cut : cuts)
    for (const gates kind : gate_kinds)
      for (const index_t batch : {1, 3}) {
        CAPTURE(cut, kind, batch);
        problem<TestType> p({.B = batch, .H = 6, .G = 3, .N = tokens_of(cut), .D = 5, .E = 7});
        CHECK(error_by_ranks<TestType>(p, kind, cut, {.chunk = 16}) <= 1);
      }
}

TEST_CASE("ring_gated_linear_forward has the bits of one process where parts are multiples of the chunk") {
  const parts cut = {32, 16, 0, 48, 5};
  problem<float> whole({.B = 2, .H = 4, .G = 2, .N = tokens_of(cut), .D = 9, .E = 6});
  problem<float> p = whole;
  solve(whole, gates::feature, {.chunk = 16, .initial_state = whole.initial_state});
  error_by_ranks<float>(p, gates::feature, cut, {.chunk = 16});
  CHECK(same_result(p, whole));
}

TEST_CASE("ring_lightning_forward has the bits of one process where parts are multiples of the chunk") {
  const parts cut = {32, 0, 48, 16, 5};
  problem<float> whole({.B = 2, .H = 6, .G = 2, .N = tokens_of(cut), .D = 9, .E = 6});
  whole.initial_state = support::normal_tensor<float, 4>({2, 6, 9, 6}, whole.random);
  whole.final_state = tensor<float, 4>::full({2, 6, 9, 6}, support::quiet_nan<float>);
  problem<float> p = whole;
  tensor<float, 1> slopes({6});
  for (index_t h = 0; h < 6; ++h) slopes(h) = 0.1f * static_cast<float>(h);
  heed::lightning_forward(whole.q, whole.k, whole.v, slopes, whole.out,
                          {.chunk = 16, .initial_state = whole.initial_state, .final_state = whole.final_state});
  on_every_rank(cut, [&](in_process_transport& ranks, const auto& part) {
    heed::ring_lightning_forward(ranks, part(p.q), part(p.k), part(p.v), slopes, part(p.out),
                                 with_states<float>({.chunk = 16}, p, ranks.rank(), ranks.size()));
  });
  CHECK(same_result(p, whole));
}

TEMPLATE_TEST_CASE("ring_gated_slot_forward agrees with the definition of the whole", "", float, double) {
  for (const parts& cut : cuts)
    for (const index_t batch : {1, 2}) {
      CAPTURE(cut, batch);
      slot_problem<TestType> p({.B = batch, .H = 6, .G = 3, .N = tokens_of(cut), .D = 5, .E = 7, .S = 6});
      CHECK(error_by_ranks<TestType>(p, cut, {.chunk = 16}) <= 1);
    }
}

TEST_CASE("Recurrences over ranks give each of them the state after its own tokens") {
  const parts cut = {4, 3};
  problem<double> p({.H = 2, .G = 2, .N = 7, .D = 3, .E = 4}), first({.H = 2, .G = 2, .N = 4, .D = 3, .E = 4});
  tensor<double, 4> between({1, 2, 3, 4});
  on_every_rank(cut, [&](in_process_transport& ranks, const auto& part) {
    ring_recurrence_options<double> own;
    own.final_state = ranks.rank() == 0 ? between : p.final_state;
    heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.token_gates), part(p.out), own);
  });
  const auto head = [](const auto& t) { return t.all().slice(2, 0, 4); };
  heed::gated_linear_forward(head(p.q), head(p.k), head(p.v), head(p.token_gates), first.out,
                             {.final_state = first.final_state});
  CHECK(same_bits<double, 4>(between, first.final_state));
}

TEST_CASE("Recurrences over ranks work in the memory they are lent") {
  const parts cut = {30, 34};
  problem<float> p({.B = 2, .H = 4, .G = 4, .N = 64, .D = 8, .E = 8});
  slot_problem<float> slots({.B = 2, .H = 4, .G = 4, .N = 64, .D = 8, .E = 8, .S = 5});
  tensor<float, 1> slopes = tensor<float, 1>::full({4}, 0.5f);
  tensor<float, 4> faded = p.out;
  on_every_rank(cut, [&](in_process_transport& ranks, const auto& part) {
    ring_recurrence_options<float> own{.executor = heed::serial()};
    const index_t bytes =
        heed::ring_gated_linear_forward_scratch_bytes<float>(ranks, part(p.q), part(p.k), part(p.v), own);
    std::vector<std::byte> memory(static_cast<std::size_t>(bytes));
    own.scratch = {memory.data(), bytes - 1};
    check_refusal("ring_gated_linear_forward", {"options.scratch"}, [&] {
      heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.token_gates), part(p.out), own);
    });
    own.scratch.bytes = bytes;
    heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.token_gates), part(p.out), own);

    ring_recurrence_options<float> of_lightning{.executor = heed::serial()};
    const index_t lightning_bytes =
        heed::ring_lightning_forward_scratch_bytes<float>(ranks, part(p.q), part(p.k), part(p.v), of_lightning);
    std::vector<std::byte> lightning_memory(static_cast<std::size_t>(lightning_bytes));
    of_lightning.scratch = {lightning_memory.data(), lightning_bytes - 1};
    check_refusal("ring_lightning_forward", {"options.scratch"}, [&] {
      heed::ring_lightning_forward(ranks, part(p.q), part(p.k), part(p.v), slopes, part(faded), of_lightning);
    });
    of_lightning.scratch.bytes = lightning_bytes;
    heed::ring_lightning_forward(ranks, part(p.q), part(p.k), part(p.v), slopes, part(faded), of_lightning);

    ring_gated_slot_options<float> of_slots{.executor = heed::serial()};
    const index_t slot_bytes = heed::ring_gated_slot_forward_scratch_bytes<float>(ranks, part(slots.q), part(slots.k),
                                                                                  part(slots.v), 5, of_slots);
    std::vector<std::byte> slot_memory(static_cast<std::size_t>(slot_bytes));
    of_slots.scratch = {slot_memory.data(), slot_bytes};
    heed::ring_gated_slot_forward(ranks, part(slots.q), part(slots.k), part(slots.v), part(slots.s), part(slots.g),
                                  part(slots.out), of_slots);
  });
  for (const float x : p.out) REQUIRE(std::isfinite(x));
  for (const float x : slots.out) REQUIRE(std::isfinite(x));
  for (const float x : faded) REQUIRE(std::isfinite(x));
}

TEST_CASE("Recurrences over ranks refuse what does not fit, on all ranks") {
  const parts cut = {3, 4};
  problem<float> p({.H = 2, .G = 2, .N = 7, .D = 3, .E = 4});
  tensor<float, 1> slopes = tensor<float, 1>::full({2}, 0.5f), others = tensor<float, 1>::full({2}, 0.25f);
  slot_problem<float> slots({.H = 2, .G = 2, .N = 7, .D = 3, .E = 4, .S = 2});
  on_every_rank(cut, [&](in_process_transport& ranks, const auto& part) {
    const auto refused = [&](std::vector<std::string> of_first, std::vector<std::string> of_second,
                             const ring_recurrence_options<float>& first,
                             const ring_recurrence_options<float>& second) {
      check_refusal("ring_gated_linear_forward", ranks.rank() == 0 ? of_first : of_second, [&] {
        heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.feature_gates), part(p.out),
                                        ranks.rank() == 0 ? first : second);
      });
    };
    refused({"options.chunk", "the same on all ranks, got 16 here"}, {"got 32 here, another on another rank"},
            {.chunk = 16}, {.chunk = 32});
    refused({"options.scale"}, {"options.scale"}, {}, {.scale = 2.0});
    refused({"arguments", "rank 1"}, {"options.initial_state", "rank 0"}, {}, {.initial_state = p.initial_state});
    refused({"options.tag"}, {"arguments", "rank 0"}, {.tag = -1}, {});
    check_refusal("ring_gated_linear_forward", {"k", "n, as q"}, [&] {
      heed::ring_gated_linear_forward(ranks, part(p.q).slice(2, 0, 2), part(p.k), part(p.v), part(p.feature_gates),
                                      part(p.out).slice(2, 0, 2), {});
    });
    check_refusal("ring_lightning_forward", {"the same on all ranks"}, [&] {
      heed::ring_lightning_forward(ranks, part(p.q), part(p.k), part(p.v), ranks.rank() == 0 ? slopes : others,
                                   part(p.out), {});
    });
    check_refusal(ranks.rank() == 0 ? "ring_gated_linear_forward" : "ring_lightning_forward",
                  {"operator and element type", "the same on all ranks"}, [&] {
                    if (ranks.rank() == 0)
                      heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.feature_gates),
                                                      part(p.out));
                    else
                      heed::ring_lightning_forward(ranks, part(p.q), part(p.k), part(p.v), slopes, part(p.out));
                  });
    check_refusal("ring_gated_slot_forward", {"options.final_values"}, [&] {
      heed::ring_gated_slot_forward(ranks, part(slots.q), part(slots.k), part(slots.v), part(slots.s), part(slots.g),
                                    part(slots.out), {.final_keys = slots.final_keys});
    });
  });
  for (const float x : p.out) CHECK(std::isnan(x));
}

namespace {

struct failing_executor {
  index_t concurrency() const { return 1; }
  template <class F>
  void for_each_task(index_t, const F&) {
    throw std::runtime_error("planned");
  }
};

}  // namespace

TEST_CASE("a rank that fails in a recurrence over ranks ends it for those that need its states") {
  const parts cut = {9, 9, 9};
  problem<float> p({.H = 4, .G = 2, .N = 27, .D = 3, .E = 4});
  const tensor<float, 1> slopes = tensor<float, 1>::full({4}, 0.5f);
  slot_problem<float> slots({.H = 4, .G = 2, .N = 27, .D = 3, .E = 4, .S = 2});
  for (int which = 0; which < 3; ++which) {
    std::atomic<int> failed = 0, told = 0;
    on_every_rank(cut, [&](in_process_transport& ranks, const auto& part) {
      failing_executor failing;
      const heed::executor_ref by = ranks.rank() == 0 ? heed::executor(failing) : heed::serial();
      try {
        if (which == 0)
          heed::ring_gated_linear_forward(ranks, part(p.q), part(p.k), part(p.v), part(p.token_gates), part(p.out),
                                          {.executor = by});
        else if (which == 1)
          heed::ring_lightning_forward(ranks, part(p.q), part(p.k), part(p.v), slopes, part(p.out), {.executor = by});
        else
          heed::ring_gated_slot_forward(ranks, part(slots.q), part(slots.k), part(slots.v), part(slots.s),
                                        part(slots.g), part(slots.out), {.executor = by});
      } catch (const heed::transport_error& error) {
        told += error.peer() == 0;
      } catch (const std::runtime_error&) {
        ++failed;
      }
    });
    CAPTURE(which);
    CHECK(failed == 1);
    CHECK(told == 2);
  }
}
