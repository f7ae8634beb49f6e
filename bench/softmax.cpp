/// softmax_forward: time, GFLOP/s and the share of the multiply-add peak measured beside every sample.
///
///     bench_softmax [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: softmax/forward/<dtype>/<case>/B/H/N/D/threads. FLOPs: 2 per multiply-add of the visible pairs, so causal counts
/// half. `share_best` and `share_median` are over the samples of one benchmark, each divided by its own peak.
#include <heed/softmax.hpp>

#include "support/samples.hpp"

#include <algorithm>
#include <memory>
#include <string>

namespace {

using bench::problem;
using bench::shape;
using heed::index_t;

/// Visible pairs of one head under causal order and a window.
double visible_pairs(index_t n, bool causal, index_t left) {
  double pairs = 0;
  for (index_t i = 0; i < n; ++i)
    pairs += static_cast<double>((causal ? i : n - 1) - (left >= 0 ? std::max<index_t>(0, i - left) : 0) + 1);
  return pairs;
}

template <class T, class... Mods>
void forward(problem<T>& p, heed::softmax_options<T> options, int threads, const Mods&... mods) {
  options.executor = heed::openmp(threads);
  heed::softmax_forward(p.q, p.k, p.v, p.out, options, mods...);
}

constexpr float alibi_slope[8] = {0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f, 0.0078125f, 0.00390625f};

template <class T>
void add(const std::string& dtype, const std::string& label, const shape& s, bool causal, index_t left, auto call) {
  bench::add(bench::name_of({"softmax/forward", dtype, label}), s, [=](benchmark::State& state, int threads) {
    problem<T> p(s);
    const double flops = 4.0 * static_cast<double>(s.batch * s.heads * s.d) * visible_pairs(s.n, causal, left);
    bench::sample<heed::accumulator_t<T>>(state, threads, flops, [&] { call(p, threads); });
    state.counters["scratch_bytes"] =
        static_cast<double>(heed::softmax_forward_scratch_bytes<T>(s.d, s.d, {.executor = heed::serial()}));
  });
}

template <class T>
void add_plain(const std::string& dtype, const shape& s) {
  add<T>(dtype, "full", s, false, -1, [](problem<T>& p, int threads) { forward(p, {}, threads); });
  add<T>(dtype, "causal", s, true, -1, [](problem<T>& p, int threads) { forward(p, {}, threads, heed::causal{}); });
}

}  // namespace

int main(int argc, char** argv) {
  const shape dense[] = {{1, 8, 8, 512, 64},   {1, 8, 8, 2048, 64},  {1, 8, 8, 4096, 64},
                         {1, 8, 8, 2048, 128}, {1, 4, 4, 8192, 128}, {1, 8, 8, 2048, 80}};
  for (const shape& s : dense) add_plain<float>("float32", s);
  for (const shape& s : {shape{1, 8, 8, 2048, 64}, shape{1, 8, 8, 4096, 64}, shape{1, 8, 8, 2048, 128}}) {
    add_plain<heed::bfloat16>("bfloat16", s);
    add_plain<heed::float16>("float16", s);
  }
  add_plain<double>("float64", {1, 8, 8, 1024, 64});
  // Of the same work a token, however long the sequence.
  for (const shape& s :
       {shape{1, 8, 8, 4096, 64}, shape{1, 8, 8, 2048, 128}, shape{1, 2, 2, 8192, 64}, shape{1, 2, 2, 65536, 64}})
    add<float>("float32", "window256", s, true, 255,
               [](problem<float>& p, int threads) { forward(p, {.window_left = 255}, threads, heed::causal{}); });
  const shape modded{1, 8, 8, 2048, 64};
  add<float>("float32", "alibi", modded, true, -1, [](problem<float>& p, int threads) {
    forward(p, {}, threads, heed::causal{}, [](auto s, auto at) { return s - alibi_slope[at.h] * (at.q - at.kv); });
  });
  add<float>("float32", "alibi_full", modded, false, -1, [](problem<float>& p, int threads) {
    forward(p, {}, threads, [](auto s, auto at) { return s - alibi_slope[at.h] * abs(at.q - at.kv); });
  });
  add<float>("float32", "softcap", modded, false, -1,
             [](problem<float>& p, int threads) { forward(p, {.softcap = 30}, threads); });
  const auto bias = std::make_shared<heed::tensor<float, 4>>(heed::tensor<float, 4>({1, 8, 2048, 2048}));
  add<float>("float32", "bias", modded, false, -1,
             [bias](problem<float>& p, int threads) { forward(p, {.bias = *bias}, threads); });

  return bench::run_all(argc, argv);
}
