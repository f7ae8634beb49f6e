/// Calls of attention as benchmarks: their names, and their samples beside what the machine can do.
#pragma once

#include <heed/core/tensor.hpp>

#include "peak.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <initializer_list>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

using heed::index_t;

struct shape {
  index_t batch, heads, kv_heads, n, d;
};

/// Normal deviates, the same ones in every run.
template <class T>
void fill_normal(heed::tensor<T, 4>& tensor, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (T& x : tensor) x = T(normal(generator));
}

template <class T>
struct problem {
  explicit problem(const shape& s)
      : q({s.batch, s.heads, s.n, s.d}),
        k({s.batch, s.kv_heads, s.n, s.d}),
        v({s.batch, s.kv_heads, s.n, s.d}),
        out({s.batch, s.heads, s.n, s.d}) {
    fill_normal(q, 7);
    fill_normal(k, 8);
    fill_normal(v, 9);
  }
  heed::tensor<T, 4> q, k, v, out;
};

/// Parts of a name, with / between them.
inline std::string name_of(std::initializer_list<std::string_view> parts) {
  std::string name;
  for (const std::string_view part : parts) {
    if (!name.empty()) name += '/';
    name += part;
  }
  return name;
}

/// Times call(), which does `work` units of work on `threads` threads, in every iteration of `state`. `peak(duration)`
/// measures how many units a second the machine can do; `unit` names 1e9 of them.
template <class Peak, class Call>
void sample(benchmark::State& state, int threads, double work, const std::string& unit, const Peak& peak,
            const Call& call) {
  pin_threads(threads);
  std::vector<double> shares, rates;
  call();
  double duration = 2e-3;
  for (auto _ : state) {
    // The peak gets as long as the call, before and after it, so that both meet the machine as it is at the time.
    const double before = peak(duration / 2);
    const auto start = clock::now();
    call();
    const double time = seconds(start, clock::now());
    const double reached = (before + peak(duration / 2)) / 2;
    duration = time;
    state.SetIterationTime(time);
    rates.push_back(work / time);
    shares.push_back(work / time / reached);
  }
  std::sort(shares.begin(), shares.end());
  std::sort(rates.begin(), rates.end());
  state.counters["share_best"] = shares.back();
  state.counters["share_median"] = shares[shares.size() / 2];
  state.counters[unit + "_best"] = rates.back() * 1e-9;
}

/// The same for `flops` operations on numbers of type Real, beside the multiply-add peak.
template <class Real, class Call>
void sample(benchmark::State& state, int threads, double flops, const Call& call) {
  sample(state, threads, flops, "gflops", [=](double duration) { return fma_peak<Real>(threads, duration); }, call);
}

/// Times other(), each time beside own(): how many times as long it takes, by the best of each and by neighboring calls.
template <class Other, class Own>
void compare(benchmark::State& state, int threads, const Other& other, const Own& own) {
  pin_threads(threads);
  other();
  own();
  std::vector<double> of_other, of_own, ratios;
  for (auto _ : state) {
    const auto start = clock::now();
    other();
    const auto middle = clock::now();
    own();
    of_other.push_back(seconds(start, middle));
    of_own.push_back(seconds(middle, clock::now()));
    ratios.push_back(of_other.back() / of_own.back());
    state.SetIterationTime(of_other.back());
  }
  std::sort(ratios.begin(), ratios.end());
  state.counters["times_heed_best"] =
      *std::min_element(of_other.begin(), of_other.end()) / *std::min_element(of_own.begin(), of_own.end());
  state.counters["times_heed_median"] = ratios[ratios.size() / 2];
}

/// Registers run(state, threads) as <name>/B/H/N/D/threads, `samples` samples each, for 1 and 2 threads.
template <class Run>
void add(const std::string& name, const shape& s, const Run& run, int samples = 11) {
  for (const int threads : {1, 2}) {
    std::string full = name;
    for (const index_t part : {s.batch, s.heads, s.n, s.d, index_t(threads)})
      full = name_of({full, std::to_string(part)});
    benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& state) { run(state, threads); })
        ->UseManualTime()
        ->Iterations(samples)
        ->Unit(benchmark::kMillisecond);
  }
}

/// The rest of main.
inline int run_all(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace bench
