/// An executor of threads that are started for each call.
#pragma once

#include <heed/core/view.hpp>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace support {

/// Hands tasks out one at a time to as many threads as there are workers, more than processors or not.
class threaded_executor {
 public:
  explicit threaded_executor(heed::index_t workers) : workers_(workers) {}

  heed::index_t concurrency() const { return workers_; }

  template <class F>
  void for_each_task(heed::index_t n, F f) {
    std::atomic<heed::index_t> next{0};
    const auto work = [&](heed::index_t worker) {
      for (heed::index_t task; (task = next++) < n;) {
        std::this_thread::yield();
        f(task, worker);
      }
    };
    std::vector<std::thread> threads;
    for (heed::index_t i = 0; i < std::min(n, workers_); ++i) threads.emplace_back(work, i);
    for (std::thread& thread : threads) thread.join();
  }

 private:
  heed::index_t workers_;
};

}  // namespace support
