/// What the machine can do, measured in the process that is being judged: the multiply-add rate of registers alone.
#pragma once

#include <heed/simd/pack.hpp>

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

namespace bench {

using clock = std::chrono::steady_clock;

inline double seconds(clock::time_point from, clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// Thread i of the OpenMP team stays on the i-th processor that the process may use.
inline void pin_threads(int threads) {
  // As the process was started: once pinned, a thread no longer knows what else it may use.
  static const cpu_set_t allowed = [] {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    return set;
  }();
#pragma omp parallel num_threads(threads)
  {
    int wanted = omp_get_thread_num();
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      sched_setaffinity(0, sizeof one, &one);
      break;
    }
  }
}

/// Hides a register from the optimiser, which would otherwise merge or fold the chains of spin_fma.
template <class P>
[[gnu::always_inline]] inline void hide(P& p) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(p.value.data));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(p.value.data));
#else
  asm volatile("" : "+w"(p.value.data));
#endif
}

/// Multiply-adds of one thread that never leave the registers, in ten independent chains; returns the FLOPs done.
template <class T>
[[gnu::noinline]] double spin_fma(long rounds) {
  using P = heed::pack<T>;
  P a0(T(0)), a1(T(0)), a2(T(0)), a3(T(0)), a4(T(0)), a5(T(0)), a6(T(0)), a7(T(0)), a8(T(0)), a9(T(0));
  const P x(T(0.5)), y(T(0.25));
  for (long i = 0; i < rounds; ++i) {
    a0 = fma(x, y, a0), a1 = fma(x, y, a1), a2 = fma(x, y, a2), a3 = fma(x, y, a3), a4 = fma(x, y, a4);
    a5 = fma(x, y, a5), a6 = fma(x, y, a6), a7 = fma(x, y, a7), a8 = fma(x, y, a8), a9 = fma(x, y, a9);
    hide(a0), hide(a1), hide(a2), hide(a3), hide(a4), hide(a5), hide(a6), hide(a7), hide(a8), hide(a9);
  }
  return 10.0 * P::lanes * 2 * static_cast<double>(rounds);
}

/// FLOP/s of `threads` threads together, over at least `duration` seconds.
template <class T>
double fma_peak(int threads, double duration) {
  double flops = 0;
  const auto start = clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : flops)
  do flops += spin_fma<T>(20'000);
  while (seconds(start, clock::now()) < duration);
  return flops / seconds(start, clock::now());
}

}  // namespace bench
