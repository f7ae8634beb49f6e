/// neighborhood_forward and neighborhood_backward: time, GFLOP/s and the share of the multiply-add peak measured beside
/// every sample, and as a baseline a plain loop over the queries and the keys that each sees.
///
///     bench_neighborhood [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: neighborhood/{forward,backward,naive}/<dtype>/<case>/B/H/N/D/threads. FLOPs: 2 per multiply-add of the visible
/// pairs, of which every query has the product of the windows.
#include <heed/local.hpp>

#include "support/samples.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace {

using bench::problem;
using bench::shape;
using heed::index_t;
using heed::neighborhood_axis;

struct grid {
  std::string label;
  std::vector<neighborhood_axis> axes;

  index_t tokens() const {
    index_t n = 1;
    for (const neighborhood_axis& a : axes) n *= a.length;
    return n;
  }
  /// Of one head, forward, for one feature of queries and values.
  double pairs() const {
    double keys = 1;
    for (const neighborhood_axis& a : axes) keys *= a.window;
    return keys * static_cast<double>(tokens());
  }
};

/// Forward as one would write it down: per query, scores of the keys of its window, softmax, weighted sum of values.
/// Axes of stride and dilation 1, missing ones of length and window 1.
void naive(problem<float>& p, const std::vector<neighborhood_axis>& axes, int threads) {
  neighborhood_axis a[3] = {{1, 1}, {1, 1}, {1, 1}};
  std::copy(axes.begin(), axes.end(), a + (3 - axes.size()));
  const auto begin = [&](int axis, int i) {
    return std::clamp(i - a[axis].window / 2, 0, a[axis].length - a[axis].window);
  };
  const index_t heads = p.q.extent(1), n = p.q.extent(2), d = p.q.extent(3);
  const float scale = 1 / std::sqrt(static_cast<float>(d));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (index_t row = 0; row < heads * n; ++row) {
    const index_t h = row / n, i = row % n;
    const int x = static_cast<int>(i) % a[2].length, y = static_cast<int>(i) / a[2].length % a[1].length;
    const int z = static_cast<int>(i) / (a[2].length * a[1].length);
    const float* const q = &p.q(0, h, i, 0);
    float* const out = &p.out(0, h, i, 0);
    std::vector<float> scores;
    std::vector<index_t> keys;
    float most = -INFINITY, total = 0;
    for (int kz = begin(0, z); kz < begin(0, z) + a[0].window; ++kz)
      for (int ky = begin(1, y); ky < begin(1, y) + a[1].window; ++ky)
        for (int kx = begin(2, x); kx < begin(2, x) + a[2].window; ++kx) {
          keys.push_back((index_t(kz) * a[1].length + ky) * a[2].length + kx);
          const float* const k = &p.k(0, h, keys.back(), 0);
          float score = 0;
          for (index_t f = 0; f < d; ++f) score += q[f] * k[f];
          scores.push_back(score * scale);
          most = std::max(most, scores.back());
        }
    for (float& s : scores) total += s = std::exp(s - most);
    std::fill_n(out, d, 0.f);
    for (std::size_t j = 0; j < keys.size(); ++j) {
      const float weight = scores[j] / total;
      const float* const v = &p.v(0, h, keys[j], 0);
      for (index_t f = 0; f < d; ++f) out[f] += weight * v[f];
    }
  }
}

template <class T>
void add_forward(const std::string& dtype, const grid& g, index_t heads, index_t d) {
  const shape s{1, heads, heads, g.tokens(), d};
  bench::add(bench::name_of({"neighborhood/forward", dtype, g.label}), s, [=](benchmark::State& state, int threads) {
    problem<T> p(s);
    const double flops = 4.0 * static_cast<double>(heads * d) * g.pairs();
    bench::sample<heed::accumulator_t<T>>(state, threads, flops, [&] {
      heed::neighborhood_forward(p.q, p.k, p.v, p.out, std::span(g.axes), {.executor = heed::openmp(threads)});
    });
  });
}

void add_backward(const grid& g, index_t heads, index_t d) {
  const shape s{1, heads, heads, g.tokens(), d};
  bench::add(bench::name_of({"neighborhood/backward", "float32", g.label}), s,
             [=](benchmark::State& state, int threads) {
               problem<float> p(s), gradients(s);
               heed::tensor<float, 3> lse({1, heads, s.n});
               heed::tensor<float, 4> dout({1, heads, s.n, d});
               bench::fill_normal(dout, 10);
               heed::neighborhood_forward(p.q, p.k, p.v, p.out, std::span(g.axes), {.lse = lse});
               const double flops = 10.0 * static_cast<double>(heads * d) * g.pairs();
               bench::sample<float>(state, threads, flops, [&] {
                 heed::neighborhood_backward(p.q, p.k, p.v, p.out, lse, dout, gradients.q, gradients.k, gradients.v,
                                             std::span(g.axes), {.executor = heed::openmp(threads)});
               });
             });
}

void add_naive(const grid& g, index_t heads, index_t d) {
  const shape s{1, heads, heads, g.tokens(), d};
  bench::add(
      bench::name_of({"neighborhood/naive", "float32", g.label}), s,
      [=](benchmark::State& state, int threads) {
        problem<float> p(s);
        bench::compare(
            state, threads, [&] { naive(p, g.axes, threads); },
            [&] {
              heed::neighborhood_forward(p.q, p.k, p.v, p.out, std::span(g.axes), {.executor = heed::openmp(threads)});
            });
      },
      31);
}

}  // namespace

int main(int argc, char** argv) {
  const grid line{"line_255", {{.length = 8192, .window = 255}}};
  const grid images[] = {
      {"image_7x7", {{.length = 64, .window = 7}, {.length = 64, .window = 7}}},
      {"image_13x13", {{.length = 64, .window = 13}, {.length = 64, .window = 13}}},
      {"image_7x7_dilated", {{.length = 64, .window = 7, .dilation = 4}, {.length = 64, .window = 7, .dilation = 4}}},
      {"video_3x7x7", {{.length = 8, .window = 3}, {.length = 32, .window = 7}, {.length = 32, .window = 7}}}};
  add_forward<float>("float32", line, 1, 64);
  add_forward<heed::bfloat16>("bfloat16", line, 1, 64);
  add_backward(line, 1, 64);
  add_naive(line, 1, 64);
  for (const grid& g : images) {
    add_forward<float>("float32", g, 8, 32);
    if (g.axes[0].dilation > 1) continue;
    add_backward(g, 8, 32);
    add_naive(g, 8, 32);
  }
  return bench::run_all(argc, argv);
}
