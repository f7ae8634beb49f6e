/// What the machine can do, measured in the process that is being judged: the multiply-add rate of registers alone, and
/// the rate at which memory is read.
#pragma once

#include <heed/simd/pack.hpp>

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstddef>

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

/// Reads `bytes` bytes from an aligned address, whole vectors of them, in four streams of additions that are hidden from
/// the optimiser.
[[gnu::noinline]] inline void read_through(const std::byte* from, std::ptrdiff_t bytes) {
  using P = heed::pack<float>;
  constexpr std::ptrdiff_t vector = P::lanes * std::ptrdiff_t(sizeof(float));
  P a(0.f), b(0.f), c(0.f), d(0.f);
  const auto at = [from](std::ptrdiff_t i) { return P::load_aligned(reinterpret_cast<const float*>(from + i)); };
  for (std::ptrdiff_t i = 0; i + 4 * vector <= bytes; i += 4 * vector) {
    a += at(i);
    b += at(i + vector);
    c += at(i + 2 * vector);
    d += at(i + 3 * vector);
  }
  hide(a), hide(b), hide(c), hide(d);
}

/// Bytes/s at which `threads` threads together read a block of memory, each its part from front to back, for at least
/// `duration` seconds.
inline double read_peak(const void* data, std::ptrdiff_t bytes, int threads, double duration) {
  const auto* const from = static_cast<const std::byte*>(data);
  const std::ptrdiff_t part = bytes / threads / 256 * 256;
  double total = 0;
  const auto start = clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : total)
  do {
    read_through(from + omp_get_thread_num() * part, part);
    total += static_cast<double>(part);
  } while (seconds(start, clock::now()) < duration);
  return total / seconds(start, clock::now());
}

/// Multiplies `bytes` bytes in place, whole vectors of them: what a state that fades costs at least.
[[gnu::noinline]] inline void update_in_place(std::byte* from, std::ptrdiff_t bytes) {
  using P = heed::pack<float>;
  constexpr std::ptrdiff_t vector = P::lanes * std::ptrdiff_t(sizeof(float));
  const P factor(1.f);
  for (std::ptrdiff_t i = 0; i + 4 * vector <= bytes; i += 4 * vector)
    for (std::ptrdiff_t j = i; j < i + 4 * vector; j += vector) {
      float* const at = reinterpret_cast<float*>(from + j);
      P x = P::load_aligned(at) * factor;
      hide(x);
      x.store_aligned(at);
    }
}

/// Bytes/s that `threads` threads together read and write so, each its part of a block of memory, for at least
/// `duration` seconds. Bytes count twice, read and written.
inline double update_peak(void* data, std::ptrdiff_t bytes, int threads, double duration) {
  auto* const from = static_cast<std::byte*>(data);
  const std::ptrdiff_t part = bytes / threads / 256 * 256;
  double total = 0;
  const auto start = clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : total)
  do {
    update_in_place(from + omp_get_thread_num() * part, part);
    total += 2 * static_cast<double>(part);
  } while (seconds(start, clock::now()) < duration);
  return total / seconds(start, clock::now());
}

}  // namespace bench
