#include "ops/softmax/statistics.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/masks.hpp>

#include <functional>
#include <vector>

using namespace softmax_test;
using support::shuffling_executor;

namespace {

/// Several tiles and blocks, more heads than workers, no queries, no keys.
const shape shapes[] = {{1, 1, 1, 500, 700, 16, 1},
                        {1, 4, 2, 300, 70, 9, 1},
                        {3, 8, 8, 40, 130, 8, 1},
                        {2, 3, 1, 0, 10, 8, 1},
                        {2, 2, 1, 10, 0, 8, 1}};

template <class S>
void check_executor(heed::executor_ref where, const char* name) {
  for (const shape& s : shapes)
    for (const index_t right : {-1, 0}) {
      statistics_problem<S> p(s), alone(s);
      solve<S>(alone, {.window_right = right, .executor = heed::serial()});
      solve<S>(p, {.window_right = right, .executor = where});
      CAPTURE(name, where.concurrency, s.N, s.M, right);
      CHECK(same_statistics(p, alone));
    }
}

/// The call works with `bytes` bytes of NaN, stays within them, and refuses one less.
template <class S>
void check_scratch(index_t bytes, const std::function<void(heed::scratch_view)>& call) {
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + 64), 0xff);
  call({memory.data(), bytes});
  for (std::size_t i = memory.size() - 64; i < memory.size(); ++i) CHECK(memory[i] == 0xff);
  CHECK_THROWS_AS(call({memory.data(), bytes - 1}), heed::invalid_argument);
}

}  // namespace

TEMPLATE_TEST_CASE("statistics are bit-equal in whatever order and by whatever worker tasks are run", "", float,
                   heed::bfloat16) {
  for (const index_t workers : {1, 2, 7}) {
    shuffling_executor backwards(shuffling_executor::order::backwards, workers);
    shuffling_executor shuffled(shuffling_executor::order::shuffled, workers);
    check_executor<TestType>(heed::executor(backwards), "backwards");
    check_executor<TestType>(heed::executor(shuffled), "shuffled");
  }
  check_executor<TestType>({}, "default");
}

#if defined(_OPENMP)
TEST_CASE("statistics are bit-equal for any number of threads") {
  for (int threads = 1; threads <= 5; ++threads) check_executor<float>(heed::openmp(threads), "openmp");
}
#endif

TEMPLATE_TEST_CASE("statistics need the scratch they say, and no more", "", float, heed::bfloat16) {
  using S = TestType;
  for (const index_t size : {1, 16, 33, 130})
    for (const bool with_bias : {false, true}) {
      const shape s{1, 2, 1, 130, 600, size, 1};
      statistics_problem<S> p(s), alone(s);
      const auto bias = support::normal_tensor<S, 4>({1, 1, 130, 600}, p.random);
      softmax_statistics_options<S> options;
      if (with_bias) options.bias = bias;
      solve<S>(alone, options);
      solve<S>(p, options);
      shuffling_executor shuffled(shuffling_executor::order::shuffled, 3);
      options.executor = heed::executor(shuffled);
      CAPTURE(size, with_bias, heed::dtype_name<S>);
      const auto with = [&](heed::scratch_view scratch) {
        options.scratch = scratch;
        return options;
      };
      check_scratch<S>(heed::softmax_weights_scratch_bytes<S>(size, options), [&](heed::scratch_view scratch) {
        heed::softmax_weights(p.q, p.k, p.lse, p.rows, p.weights, with(scratch));
      });
      check_scratch<S>(heed::softmax_top_keys_scratch_bytes<S>(size, 5, options), [&](heed::scratch_view scratch) {
        heed::softmax_top_keys(p.q, p.k, p.lse, {}, p.top_weights, p.top_keys, with(scratch));
      });
      check_scratch<S>(heed::softmax_row_statistics_scratch_bytes<S>(size, options), [&](heed::scratch_view scratch) {
        heed::softmax_row_statistics(p.q, p.k, p.lse, {.entropy = p.entropy, .argmax = p.argmax}, with(scratch));
      });
      check_scratch<S>(
          heed::softmax_column_statistics_scratch_bytes<S>(size, options), [&](heed::scratch_view scratch) {
            heed::softmax_column_statistics(p.q, p.k, p.lse,
                                            {.sum = p.column_sum, .max = p.column_max, .row_weights = p.row_weights},
                                            with(scratch));
          });
      CHECK(same_statistics(p, alone));
    }
}
