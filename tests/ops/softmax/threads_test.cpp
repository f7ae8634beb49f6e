#include "ops/softmax/problem.hpp"
#include "support/catch.hpp"
#include "support/shuffling_executor.hpp"

#include <heed/mod/masks.hpp>

#include <functional>
#include <stdexcept>
#include <vector>

using namespace softmax_test;
using support::for_each_executor;

namespace {

/// Lets a mod start the next task while its own is half done, as another thread might.
class interleaving_executor {
 public:
  index_t concurrency() const { return 8; }

  template <class F>
  void for_each_task(index_t n, F f) {
    run_ = [this, n, f] {
      if (next_ >= n || depth_ + 1 >= concurrency()) return;
      const index_t task = next_++, worker = ++depth_;
      f(task, worker);
      --depth_;
    };
    depth_ = -1;
    next_ = 0;
    while (next_ < n) run_();
  }

  void start_another() { run_(); }

 private:
  std::function<void()> run_;
  index_t next_ = 0, depth_ = -1;
};

/// The last has enough tiles of queries for one worker to take them in fours, two in pairs, and more one by one.
std::vector<shape> shapes() {
  return {{1, 1, 1, 1, 1000, 16, 16},
          {2, 4, 2, 150, 300, 24, 20},
          {1, 2, 1, 400, 65, 8, 8},
          {3, 3, 1, 0, 10, 8, 8},
          {1, 8, 2, 400, 700, 4, 4}};
}

template <class S>
void check_executor(heed::executor_ref where, const char* name) {
  for (const shape& s : shapes())
    for (const index_t right : {-1, 0}) {
      problem<S> p(s), alone(s);
      heed::softmax_forward(alone.q, alone.k, alone.v, alone.out,
                            {.lse = alone.lse, .window_right = right, .executor = heed::serial()});
      heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .window_right = right, .executor = where});
      CAPTURE(name, where.concurrency, s.N, s.M, right);
      CHECK(same_result(p, alone));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("results are bit-equal in whatever order and by whatever worker tasks are run", "", float,
                   heed::bfloat16) {
  for_each_executor(check_executor<TestType>);
}

#if defined(_OPENMP)
TEMPLATE_TEST_CASE("results are bit-equal for any number of threads", "", float, heed::bfloat16) {
  for (int threads = 1; threads <= 5; ++threads) check_executor<TestType>(heed::openmp(threads), "openmp");
}

TEST_CASE("an exception of a mod passes, from a team of threads too") {
  problem<float> p({1, 4, 1, 100, 100, 8, 8});
  const auto throwing = [](position at) -> bool {
    if (at.q == 70 && at.h == 2) throw std::runtime_error("from a mod");
    return true;
  };
  CHECK_THROWS_AS(heed::softmax_forward(p.q, p.k, p.v, p.out, {.executor = heed::openmp(3)}, throwing),
                  std::runtime_error);
  CHECK_THROWS_AS(heed::softmax_forward(p.q, p.k, p.v, p.out, {.executor = heed::serial()}, throwing),
                  std::runtime_error);
  // Nothing is left in a state that would spoil the next call.
  CHECK(error_of(p) <= 1);
}
#endif

TEST_CASE("tasks that overlap in time do not disturb each other") {
  const shape s{2, 4, 2, 100, 200, 16, 16};
  problem<float> p(s), alone(s);
  const auto mask = [](position at) { return at.kv <= at.q || at.kv % 3 == 0; };
  heed::softmax_forward(alone.q, alone.k, alone.v, alone.out, {.lse = alone.lse, .executor = heed::serial()}, mask);
  interleaving_executor executor;
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.lse = p.lse, .executor = heed::executor(executor)}, [&](position at) {
    if (at.kv == 40 && at.q % 7 == 0) executor.start_another();
    return mask(at);
  });
  CHECK(same_result(p, alone));
}

TEST_CASE("a mod may call softmax_forward itself") {
  problem<float> outer({1, 2, 1, 20, 30, 8, 8}), expected({1, 2, 1, 20, 30, 8, 8});
  const float inner_value = [] {
    problem<float> inner({1, 1, 1, 1, 5, 4, 1});
    heed::softmax_forward(inner.q, inner.k, inner.v, inner.out);
    return inner.out(0, 0, 0, 0);
  }();
  const auto nested = [](float s, position) {
    problem<float> inner({1, 1, 1, 1, 5, 4, 1});
    heed::softmax_forward(inner.q, inner.k, inner.v, inner.out);
    return s * inner.out(0, 0, 0, 0);
  };
  heed::softmax_forward(outer.q, outer.k, outer.v, outer.out, {.lse = outer.lse}, nested);
  heed::softmax_forward(expected.q, expected.k, expected.v, expected.out, {.lse = expected.lse},
                        [inner_value](float s, position) { return s * inner_value; });
  CHECK(same_result(outer, expected));
}
