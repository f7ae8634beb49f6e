/// Who runs the tasks of a call: the calling thread, OpenMP, or a pool of the caller's.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/view.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif
#include <exception>

HEED_BEGIN

/// A non-owning reference to something that runs tasks. Made by `heed::serial()`, `heed::openmp()` or
/// `heed::executor(object)`; `{}` is the default: OpenMP in a translation unit compiled with it, else serial.
/// Results never depend on the executor.
struct executor_ref {
  using task_function = void (*)(void* context, index_t task, index_t worker);

  void* object = nullptr;
  void (*run)(void* object, index_t tasks, void* context, task_function task) = nullptr;
  /// Upper bound of the worker numbers that `run` passes on; scratch is this many times the bytes of one worker.
  index_t concurrency = 1;
};

HEED_END

HEED_ARCH_BEGIN

/// An executor of the caller's own: anything with
///     index_t concurrency() const;                                   // worker numbers are 0 .. concurrency() - 1
///     void for_each_task(index_t n, F f);                            // f(task, worker) once for each task in [0, n)
/// where no two tasks run at the same time with one worker number, and for_each_task returns when all tasks have.
template <class E>
concept executor_object = requires(E& e, index_t n, void (*f)(index_t, index_t)) {
  index_t(e.concurrency());
  e.for_each_task(n, f);
};

/// Refers to an executor object, which must outlive the calls that use it. Exceptions of a task pass through its
/// for_each_task. Throws heed::invalid_argument if it has no workers.
template <executor_object E>
executor_ref executor(E& object) {
  executor_ref ref{};
  ref.object = &object;
  ref.concurrency = object.concurrency();
  detail::checker("executor").require(ref.concurrency >= 1, "concurrency", "at least 1", ref.concurrency);
  ref.run = [](void* self, index_t tasks, void* context, executor_ref::task_function task) {
    static_cast<E*>(self)->for_each_task(tasks, [=](index_t i, index_t worker) { task(context, i, worker); });
  };
  return ref;
}

/// Runs every task on the calling thread, in order.
inline executor_ref serial() {
  executor_ref ref{};
  ref.run = [](void*, index_t tasks, void* context, executor_ref::task_function task) {
    for (index_t i = 0; i < tasks; ++i) task(context, i, 0);
  };
  return ref;
}

#if defined(_OPENMP)
/// Runs tasks on an OpenMP team of at most `threads` threads (0: omp_get_max_threads()), handed out one at a time.
/// The first exception of a task is rethrown on the calling thread once the team is done.
inline executor_ref openmp(int threads = 0) {
  executor_ref ref{};
  ref.concurrency = threads > 0 ? threads : omp_get_max_threads();
  // The team size travels in the object pointer: a reference needs no storage of its own.
  ref.object = reinterpret_cast<void*>(static_cast<std::intptr_t>(ref.concurrency));
  ref.run = [](void* object, index_t tasks, void* context, executor_ref::task_function task) {
    const int team = static_cast<int>(reinterpret_cast<std::intptr_t>(object));
#if HEED_EXCEPTIONS
    std::exception_ptr failure;
#endif
    // One task needs no team; the team's size never varies, for that would make the runtime end and start threads.
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (tasks > 1)
    for (index_t i = 0; i < tasks; ++i) {
#if HEED_EXCEPTIONS
      try {
        task(context, i, omp_get_thread_num());
      } catch (...) {
#pragma omp critical(heed_executor_failure)
        if (!failure) failure = std::current_exception();
      }
#else
      task(context, i, omp_get_thread_num());
#endif
    }
#if HEED_EXCEPTIONS
    if (failure) std::rethrow_exception(failure);
#endif
  };
  return ref;
}
#endif

namespace detail {

inline executor_ref resolve(executor_ref ref) {
  if (ref.run != nullptr) return ref;
#if defined(_OPENMP)
  return openmp();
#else
  return serial();
#endif
}

/// Calls f(task, worker) for each task in [0, tasks).
template <class F>
void for_each_task(const executor_ref& where, index_t tasks, F& f) {
  where.run(where.object, tasks, &f,
            [](void* context, index_t task, index_t worker) { (*static_cast<F*>(context))(task, worker); });
}

}  // namespace detail
HEED_ARCH_END
