/// softmax_backward: time, GFLOP/s and the share of the multiply-add peak measured beside every sample.
///
///     heed_bench_softmax_backward [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: softmax/backward/<dtype>/<case>/B/H/N/D/threads. FLOPs: five products, 2 per multiply-add of the visible
/// pairs, so causal counts half. `share_best` and `share_median` are over the samples of one benchmark, each divided by
/// its own peak.
#include <heed/softmax.hpp>

#include "support/peak.hpp"

#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

namespace {

using heed::index_t;

struct shape {
  index_t batch, heads, kv_heads, n, d;
};

template <class T>
struct problem {
  using real = heed::accumulator_t<T>;

  explicit problem(const shape& s)
      : q({s.batch, s.heads, s.n, s.d}),
        k({s.batch, s.kv_heads, s.n, s.d}),
        v({s.batch, s.kv_heads, s.n, s.d}),
        out({s.batch, s.heads, s.n, s.d}),
        dout({s.batch, s.heads, s.n, s.d}),
        dq({s.batch, s.heads, s.n, s.d}),
        dk({s.batch, s.kv_heads, s.n, s.d}),
        dv({s.batch, s.kv_heads, s.n, s.d}),
        lse({s.batch, s.heads, s.n}) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (auto* tensor : {&q, &k, &v, &dout})
      for (auto& x : *tensor) x = T(normal(generator));
  }
  heed::tensor<T, 4> q, k, v, out, dout, dq, dk, dv;
  heed::tensor<real, 3> lse;
};

template <class T, class... Mods>
void backward(problem<T>& p, heed::softmax_backward_options<T> options, int threads, const Mods&... mods) {
  options.executor = heed::openmp(threads);
  heed::softmax_backward(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, options, mods...);
}

constexpr int samples = 11;

template <class T, class... Mods>
void measure(benchmark::State& state, const shape& s, int threads, double pairs,
             const heed::softmax_backward_options<T>& options, const Mods&... mods) {
  problem<T> p(s);
  bench::pin_threads(threads);
  const double flops = 10.0 * static_cast<double>(s.batch * s.heads * s.d) * pairs;
  std::vector<double> shares, rates;
  heed::softmax_forward(p.q, p.k, p.v, p.out, {.softcap = options.softcap, .lse = p.lse}, mods...);
  backward(p, options, threads, mods...);
  double duration = 2e-3;
  for (auto _ : state) {
    // The peak gets as long as the call, before and after it, so that both meet the machine as it is at the time.
    const double before = bench::fma_peak<typename problem<T>::real>(threads, duration / 2);
    const auto start = bench::clock::now();
    backward(p, options, threads, mods...);
    const double time = bench::seconds(start, bench::clock::now());
    const double peak = (before + bench::fma_peak<typename problem<T>::real>(threads, duration / 2)) / 2;
    duration = time;
    state.SetIterationTime(time);
    rates.push_back(flops / time);
    shares.push_back(flops / time / peak);
  }
  std::sort(shares.begin(), shares.end());
  std::sort(rates.begin(), rates.end());
  state.counters["share_best"] = shares.back();
  state.counters["share_median"] = shares[shares.size() / 2];
  state.counters["gflops_best"] = rates.back() * 1e-9;
  state.counters["scratch_bytes"] =
      static_cast<double>(heed::softmax_backward_scratch_bytes<T>(p.q, p.k, p.v, {.executor = heed::serial()}));
}

template <class T, class... Mods>
void add(const std::string& dtype, const std::string& label, const shape& s, bool causal,
         const heed::softmax_backward_options<T>& options, const Mods&... mods) {
  const double n = static_cast<double>(s.n), pairs = causal ? n * (n + 1) / 2 : n * n;
  for (const int threads : {1, 2}) {
    const std::string name = "softmax/backward/" + dtype + "/" + label + "/" + std::to_string(s.batch) + "/" +
                             std::to_string(s.heads) + "/" + std::to_string(s.n) + "/" + std::to_string(s.d) + "/" +
                             std::to_string(threads);
    benchmark::RegisterBenchmark(
        name.c_str(), [=](benchmark::State& state) { measure<T>(state, s, threads, pairs, options, mods...); })
        ->UseManualTime()
        ->Iterations(samples)
        ->Unit(benchmark::kMillisecond);
  }
}

template <class T>
void add_plain(const std::string& dtype, const shape& s) {
  add<T>(dtype, "full", s, false, {});
  add<T>(dtype, "causal", s, true, {}, heed::causal{});
}

}  // namespace

int main(int argc, char** argv) {
  const shape dense[] = {{1, 8, 8, 2048, 64}, {1, 8, 8, 2048, 128}, {1, 1, 1, 4096, 128}, {1, 8, 2, 2048, 64}};
  for (const shape& s : dense) add_plain<float>("float32", s);
  add_plain<double>("float64", {1, 8, 8, 1024, 64});

  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
