#include "ops/softmax/problem.hpp"
#include "ops/softmax/statistics.hpp"
#include "ops/softmax/step.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <heed/cache.hpp>
#include <heed/mod/masks.hpp>

#include <vector>

using namespace softmax_test;

namespace {

constexpr shape usual{2, 4, 2, 70, 300, 33, 20};

template <class S>
std::vector<unsigned char> scratch_for(const shape& s, const softmax_options<S>& options) {
  const index_t bytes = heed::softmax_forward_scratch_bytes<S>(s.D, s.E, options);
  return std::vector<unsigned char>(static_cast<std::size_t>(bytes), 0xff);  // every float is NaN
}

}  // namespace

TEMPLATE_TEST_CASE("with scratch of the caller's a call allocates nothing, and NaN in it changes nothing", "", float,
                   double, heed::bfloat16) {
  const auto with_mods = [](problem<TestType>& p, const softmax_options<TestType>& options) {
    heed::softmax_forward(p.q, p.k, p.v, p.out, options, heed::causal{},
                          [](auto s, auto at) { return s - 0.1f * (at.q - at.kv); });
  };
  problem<TestType> lent(usual), own(usual);
  const auto bias = support::normal_tensor<TestType, 4>({1, 4, 70, 300}, lent.random);
  for (const bool with_bias : {false, true}) {
    softmax_options<TestType> options{.executor = heed::serial()};
    if (with_bias) options.bias = bias;
    options.lse = own.lse;
    with_mods(own, options);

    auto memory = scratch_for(usual, options);
    options.lse = lent.lse;
    options.scratch = {memory.data(), static_cast<index_t>(memory.size())};
    heed::release_scratch();
    CHECK(support::allocations_of([&] { with_mods(lent, options); }) == 0);
    CHECK(same_result(lent, own));
  }
}

TEST_CASE("without scratch only a thread's first call allocates") {
  problem<float> p(usual);
  const auto call = [&] { heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .executor = heed::serial()}); };
  heed::release_scratch();
  CHECK(support::allocations_of(call) == 1);
  CHECK(support::allocations_of(call) == 0);
}

TEST_CASE("a call stays within the scratch that was asked for") {
  for (const index_t size : {1, 3, 16, 33, 130})
    for (const bool with_bias : {false, true}) {
      const shape s{1, 2, 1, 70, 200, size, size + 1};
      problem<heed::bfloat16> p(s);
      const auto bias = support::normal_tensor<heed::bfloat16, 4>({1, 1, 70, 200}, p.random);
      softmax_options<heed::bfloat16> options{.lse = p.lse, .executor = heed::serial()};
      if (with_bias) options.bias = bias;
      const index_t bytes = heed::softmax_forward_scratch_bytes<heed::bfloat16>(s.D, s.E, options);
      for (const index_t shift : {0, 1, 37}) {
        std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 256), 0xa5);
        options.scratch = {memory.data() + 64 + shift, bytes};
        heed::softmax_forward(p.q, p.k, p.v, p.out, options);
        const auto untouched = [](unsigned char x) { return x == 0xa5; };
        CAPTURE(size, with_bias, shift);
        CHECK(std::all_of(memory.begin(), memory.begin() + 64 + shift, untouched));
        CHECK(std::all_of(memory.begin() + 64 + shift + bytes, memory.end(), untouched));
      }
    }
}

TEST_CASE("scratch grows with the head sizes and the workers, and with nothing else") {
  // Lengths are no argument of softmax_forward_scratch_bytes; that it suffices for long sequences as for short ones:
  const shape small{1, 1, 1, 3, 5, 16, 16}, large{2, 4, 1, 300, 2000, 16, 16};
  softmax_options<float> options{.executor = heed::serial()};
  auto memory = scratch_for(small, options);
  options.scratch = {memory.data(), static_cast<index_t>(memory.size())};
  problem<float> p(large);
  CHECK(error_of(p, options) <= 1);

  const auto bytes = [](index_t D, index_t E, heed::executor_ref where) {
    return heed::softmax_forward_scratch_bytes<float>(D, E, {.executor = where});
  };
  heed::executor_ref three = heed::serial();
  three.concurrency = 3;
  CHECK(bytes(64, 64, heed::serial()) < bytes(128, 64, heed::serial()));
  CHECK(bytes(64, 64, heed::serial()) < bytes(64, 128, heed::serial()));
  CHECK(bytes(64, 64, three) > 2 * bytes(64, 64, heed::serial()));
}

TEMPLATE_TEST_CASE("with scratch of the caller's a step allocates nothing, and NaN in it changes nothing", "", float,
                   heed::bfloat16) {
  const shape s{2, 4, 2, 3, 500, 33, 20};
  problem<TestType> own(s), lent(s);
  heed::softmax_step_options<TestType> options{.softcap = 2, .lse = own.lse, .split = 64, .executor = heed::serial()};
  heed::softmax_step(own.q, own.k, own.v, own.out, options, heed::causal{});
  const index_t bytes = heed::softmax_step_scratch_bytes<TestType>(lent.q, lent.k, lent.v, options);
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 64), 0xff);
  options.lse = lent.lse;
  options.scratch = {memory.data() + 1, bytes};
  heed::release_scratch();
  CHECK(support::allocations_of(
            [&] { heed::softmax_step(lent.q, lent.k, lent.v, lent.out, options, heed::causal{}); }) == 0);
  CHECK(same_result(lent, own));
  CHECK(std::all_of(memory.begin() + 1 + bytes, memory.end(), [](unsigned char x) { return x == 0xff; }));
}

TEMPLATE_TEST_CASE("over a cache, calls with scratch of the caller's allocate nothing, and NaN in it changes nothing",
                   "", float, heed::bfloat16, heed::int4_rows) {
  const shape s{2, 4, 2, 3, 300, 33, 20};
  problem<float> own(s), lent(s);
  heed::paged_cache<TestType> cache(
      {.batch = 2, .kv_heads = 2, .pages = 50, .page_size = 13, .features = 33, .value_features = 20});
  cache.append(own.k, own.v);
  const auto check = [&](index_t bytes, auto options, const auto& call) {
    options.lse = own.lse;
    options.executor = heed::serial();
    call(own, options);
    std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 64), 0xff);
    options.lse = lent.lse;
    options.scratch = {memory.data() + 1, bytes};
    heed::release_scratch();
    CHECK(support::allocations_of([&] { call(lent, options); }) == 0);
    CHECK(same_result(lent, own));
    CHECK(std::all_of(memory.begin() + 1 + bytes, memory.end(), [](unsigned char x) { return x == 0xff; }));
  };
  const heed::softmax_step_options<float> step{.split = 64, .executor = heed::serial()};
  check(heed::softmax_step_scratch_bytes<float>(own.q, cache, step), step, [&](problem<float>& p, const auto& options) {
    heed::softmax_step(p.q, cache, p.out, options, heed::causal{});
  });
  const softmax_options<float> forward{.executor = heed::serial()};
  check(heed::softmax_forward_scratch_bytes<float>(cache, forward), forward,
        [&](problem<float>& p, const auto& options) {
          heed::softmax_forward(p.q, cache, p.out, options, heed::causal{});
        });
}

TEMPLATE_TEST_CASE("statistics allocate nothing with scratch of the caller's", "", float, heed::bfloat16) {
  statistics_problem<TestType> p({2, 4, 2, 130, 300, 33, 1});
  softmax_statistics_options<TestType> options{.executor = heed::serial()};
  solve<TestType>(p, options);
  const index_t bytes = std::max({heed::softmax_weights_scratch_bytes<TestType>(33, options),
                                  heed::softmax_top_keys_scratch_bytes<TestType>(33, 5, options),
                                  heed::softmax_row_statistics_scratch_bytes<TestType>(33, options),
                                  heed::softmax_column_statistics_scratch_bytes<TestType>(33, options)});
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes), 0xff);
  options.scratch = {memory.data(), bytes};
  heed::release_scratch();
  CHECK(support::allocations_of([&] { read_on<heed::default_arch, TestType>(p, options, heed::causal{}); }) == 0);
}
