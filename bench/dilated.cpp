/// dilated_forward: time, GFLOP/s and the share of the multiply-add peak measured beside every sample; beside it the
/// same pairs as softmax_forward with the mask heed::dilated, which visits the whole band.
///
///     bench_dilated [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: dilated/<operator>/<step>/B/H/N/D/threads. The window is causal and shows 256 keys, step apart. FLOPs: 2 per
/// multiply-add of the visible pairs.
#include <heed/local.hpp>
#include <heed/softmax.hpp>

#include "support/samples.hpp"

#include <algorithm>
#include <string>

namespace {

using bench::problem;
using bench::shape;
using heed::index_t;

constexpr index_t keys = 256;

double visible_pairs(index_t n, index_t step) {
  double pairs = 0;
  for (index_t i = 0; i < n; ++i) pairs += static_cast<double>(std::min(keys, i / step + 1));
  return pairs;
}

void add(const std::string& label, const shape& s, index_t step, auto call) {
  bench::add(bench::name_of({"dilated", label, std::to_string(step)}), s, [=](benchmark::State& state, int threads) {
    problem<float> p(s);
    const double flops = 4.0 * static_cast<double>(s.batch * s.heads * s.d) * visible_pairs(s.n, step);
    bench::sample<float>(state, threads, flops, [&] { call(p, threads); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  for (const index_t step : {1, 4, 16})
    for (const shape& s : {shape{1, 2, 2, 8192, 64}, shape{1, 2, 2, 65536, 64}}) {
      const index_t reach = (keys - 1) * step;
      add("forward", s, step, [=](problem<float>& p, int threads) {
        heed::dilated_forward(p.q, p.k, p.v, p.out, {.step = step, .reach = reach, .executor = heed::openmp(threads)},
                              heed::causal{});
      });
      if (s.n > 8192) continue;
      add("masked", s, step, [=](problem<float>& p, int threads) {
        const heed::dilated band(static_cast<int>(reach), static_cast<int>(step));
        heed::softmax_forward(p.q, p.k, p.v, p.out, {.executor = heed::openmp(threads)}, heed::causal{} & band);
      });
    }
  return bench::run_all(argc, argv);
}
