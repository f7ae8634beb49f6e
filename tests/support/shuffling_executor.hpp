/// An executor that shows whether a call depends on who runs its tasks when.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/view.hpp>

#include "support/threaded_executor.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace support {

using heed::index_t;

/// Runs tasks in an order of its own, each with whatever worker number comes next.
class shuffling_executor {
 public:
  enum class order { backwards, shuffled };

  shuffling_executor(order which, index_t workers) : order_(which), workers_(workers) {}

  index_t concurrency() const { return workers_; }

  template <class F>
  void for_each_task(index_t n, F f) {
    std::vector<index_t> tasks(static_cast<std::size_t>(n));
    std::iota(tasks.begin(), tasks.end(), index_t(0));
    if (order_ == order::backwards)
      std::reverse(tasks.begin(), tasks.end());
    else
      std::shuffle(tasks.begin(), tasks.end(), std::mt19937(7));
    index_t worker = 0;
    for (const index_t task : tasks) f(task, worker = (worker + 1) % workers_);
  }

 private:
  order order_;
  index_t workers_;
};

/// Calls check(executor, its name) for orders of tasks and numbers of workers, for threads, which alone show what waits
/// for what, and for the default of a call.
template <class Check>
void for_each_executor(const Check& check) {
  using order = shuffling_executor::order;
  for (const index_t workers : {1, 2, 7}) {
    shuffling_executor backwards(order::backwards, workers), shuffled(order::shuffled, workers);
    check(heed::executor(backwards), "backwards");
    check(heed::executor(shuffled), "shuffled");
  }
  for (const index_t workers : {3, 7}) {
    threaded_executor threads(workers);
    check(heed::executor(threads), "threads");
  }
  check(heed::executor_ref{}, "default");
}

}  // namespace support
