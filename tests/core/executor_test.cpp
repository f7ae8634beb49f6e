#include "support/catch.hpp"

#include <heed/core/executor.hpp>

#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using heed::index_t;

namespace {

/// A pool of the plainest kind: `workers` threads, tasks dealt out round robin, the first exception rethrown.
struct round_robin {
  index_t workers;
  index_t calls = 0;

  index_t concurrency() const { return workers; }

  template <class F>
  void for_each_task(index_t n, F f) {
    ++calls;
    std::vector<std::thread> threads;
    std::vector<std::exception_ptr> failures(static_cast<std::size_t>(workers));
    for (index_t worker = 0; worker < workers; ++worker)
      threads.emplace_back([=, this, &failures] {
        try {
          for (index_t i = worker; i < n; i += workers) f(i, worker);
        } catch (...) {
          failures[static_cast<std::size_t>(worker)] = std::current_exception();
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& failure : failures)
      if (failure) std::rethrow_exception(failure);
  }
};

/// Runs n tasks and returns how often each ran; notes worker numbers out of range and workers that run two at a time.
std::vector<int> run(const heed::executor_ref& where, index_t n, int& misuse) {
  std::vector<std::atomic<int>> count(static_cast<std::size_t>(n));
  std::vector<std::atomic<int>> busy(static_cast<std::size_t>(where.concurrency));
  std::atomic<int> wrong{0};
  auto task = [&](index_t i, index_t worker) {
    if (worker < 0 || worker >= where.concurrency) {
      ++wrong;
      return;
    }
    wrong += busy[static_cast<std::size_t>(worker)]++ != 0;
    ++count[static_cast<std::size_t>(i)];
    --busy[static_cast<std::size_t>(worker)];
  };
  heed::detail::for_each_task(where, n, task);
  misuse += wrong;
  return {count.begin(), count.end()};
}

void check_every_task_once(const heed::executor_ref& where) {
  int misuse = 0;
  for (const index_t n : {0, 1, 2, 7, 1000}) {
    const std::vector<int> count = run(where, n, misuse);
    CHECK(count == std::vector<int>(static_cast<std::size_t>(n), 1));
  }
  CHECK(misuse == 0);
}

void check_exception_arrives(const heed::executor_ref& where) {
  auto task = [](index_t i, index_t) {
    if (i == 5) throw std::runtime_error("task 5");
  };
  CHECK_THROWS_WITH(heed::detail::for_each_task(where, 20, task), "task 5");
  check_every_task_once(where);
}

}  // namespace

TEST_CASE("serial runs every task once, in order, on the calling thread") {
  check_every_task_once(heed::serial());
  check_exception_arrives(heed::serial());
  CHECK(heed::serial().concurrency == 1);

  std::vector<index_t> order;
  const auto caller = std::this_thread::get_id();
  bool elsewhere = false;
  auto task = [&](index_t i, index_t worker) {
    order.push_back(i);
    elsewhere = elsewhere || worker != 0 || std::this_thread::get_id() != caller;
  };
  heed::detail::for_each_task(heed::serial(), 4, task);
  CHECK(order == std::vector<index_t>{0, 1, 2, 3});
  CHECK_FALSE(elsewhere);
}

#if defined(_OPENMP)
TEST_CASE("openmp runs every task once on as many workers as asked for") {
  for (const int threads : {1, 2, 3, 8}) {
    CHECK(heed::openmp(threads).concurrency == threads);
    check_every_task_once(heed::openmp(threads));
    check_exception_arrives(heed::openmp(threads));
  }
  CHECK(heed::openmp().concurrency == omp_get_max_threads());
}

TEST_CASE("openmp inside a parallel region keeps its worker numbers") {
  int misuse = 0;
#pragma omp parallel for num_threads(2) reduction(+ : misuse)
  for (int i = 0; i < 4; ++i) {
    const std::vector<int> count = run(heed::openmp(3), 50, misuse);
    misuse += count != std::vector<int>(50, 1);
  }
  CHECK(misuse == 0);
}
#endif

TEST_CASE("an executor of the caller's own is used as it is") {
  round_robin pool{3};
  const heed::executor_ref ref = heed::executor(pool);
  CHECK(ref.concurrency == 3);
  check_every_task_once(ref);
  check_exception_arrives(ref);
  CHECK(pool.calls == 11);
}

TEST_CASE("an executor without workers is refused") {
  round_robin pool{0};
  CHECK_THROWS_WITH(heed::executor(pool), "heed::executor: concurrency: expected at least 1, got 0");
}

TEST_CASE("executor objects are told by their members") {
  struct no_concurrency {
    void for_each_task(index_t, void (*)(index_t, index_t)) {}
  };
  STATIC_REQUIRE(heed::executor_object<round_robin>);
  STATIC_REQUIRE(!heed::executor_object<no_concurrency>);
  STATIC_REQUIRE(!heed::executor_object<int>);
}

TEST_CASE("the default executor is OpenMP where there is OpenMP") {
  const heed::executor_ref chosen = heed::detail::resolve({});
  check_every_task_once(chosen);
#if defined(_OPENMP)
  CHECK(chosen.concurrency == omp_get_max_threads());
#else
  CHECK(chosen.concurrency == 1);
#endif
  CHECK(heed::detail::resolve(heed::serial()).run == heed::serial().run);
}
