#include "ops/softmax/backward.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/masks.hpp>
#include <heed/mod/parametric.hpp>

#include <vector>

using namespace softmax_test;
using support::for_each_executor;
using support::shuffling_executor;

namespace {

/// Units that several tasks share, units of their own, no queries, no keys.
const shape shapes[] = {{1, 1, 1, 1100, 150, 16, 8},
                        {1, 4, 2, 300, 70, 9, 20},
                        {3, 8, 8, 40, 130, 8, 8},
                        {2, 3, 1, 0, 10, 8, 8},
                        {2, 2, 1, 10, 0, 8, 8}};

template <class S>
void check_executor(heed::executor_ref where, const char* name) {
  for (const shape& s : shapes)
    for (const index_t right : {-1, 0}) {
      backward_problem<S> p(s), alone(s);
      const auto sink = support::normal_tensor<typename backward_problem<S>::T, 1>({s.H}, p.random);
      solve<S>(alone, {.sink = sink, .dsink = alone.dsink, .window_right = right, .executor = heed::serial()});
      solve<S>(p, {.sink = sink, .dsink = p.dsink, .window_right = right, .executor = where});
      CAPTURE(name, where.concurrency, s.N, s.M, right);
      CHECK(same_gradients(p, alone));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("gradients are bit-equal in whatever order and by whatever worker tasks are run", "", float,
                   heed::bfloat16) {
  for_each_executor(check_executor<TestType>);
}

#if defined(_OPENMP)
TEMPLATE_TEST_CASE("gradients are bit-equal for any number of threads", "", float, heed::bfloat16) {
  for (int threads = 1; threads <= 5; ++threads) check_executor<TestType>(heed::openmp(threads), "openmp");
}
#endif

TEST_CASE("gradients of parameters are bit-equal for any worker, and are part of the scratch asked for") {
  tensor<double, 1> values = tensor<double, 1>::full({1}, 0.3), got({1}), expected({1});
  const auto slope = [](auto s, auto at, const auto& w) { return s - w[0] * abs(at.q - at.kv); };
  const auto mod = heed::with_parameters<1>(slope, values, got);
  for (const shape& s : shapes) {
    backward_problem<float> p(s), alone(s);
    solve<float>(alone, {.executor = heed::serial()}, heed::with_parameters<1>(slope, values, expected));
    shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
    const heed::executor_ref where = heed::executor(shuffled);
    const index_t bytes = heed::softmax_backward_scratch_bytes<float>(p.q, p.k, p.v, {.executor = where}, mod);
    std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 64), 0xff);
    solve<float>(p, {.scratch = {memory.data(), bytes}, .executor = where}, mod);
    CAPTURE(s.N, s.M, bytes);
    CHECK(got(0) == expected(0));
    CHECK(same_gradients(p, alone));
    for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
  }
}

TEMPLATE_TEST_CASE("softmax_backward needs the scratch it says, and no more", "", float, heed::bfloat16) {
  for (const shape& s : shapes) {
    backward_problem<TestType> p(s), alone(s);
    solve<TestType>(alone, {});
    shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
    const heed::executor_ref where = heed::executor(shuffled);
    const index_t bytes = heed::softmax_backward_scratch_bytes<TestType>(p.q, p.k, p.v, {.executor = where});
    std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 64), 0xff);
    solve<TestType>(p, {.scratch = {memory.data(), bytes}, .executor = where});
    CAPTURE(s.N, s.M, bytes);
    CHECK(same_gradients(p, alone));
    for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
    CHECK_THROWS_AS(solve<TestType>(p, {.scratch = {memory.data(), bytes - 1}, .executor = where}),
                    heed::invalid_argument);
  }
}
