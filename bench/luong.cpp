/// Luong's attention: time, and for score dot the share of the multiply-add peak measured beside every sample.
///
///     bench_luong [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: luong/<operator>/B/1/N/D/threads, as many source states as target steps. `gflops_best` counts 2 per
/// multiply-add of the visible pairs; for mlp, of which tanh is the work, its pairs times hidden features in 1e9/s.
#include <heed/local.hpp>

#include "support/samples.hpp"

#include <algorithm>
#include <random>
#include <string>

namespace {

using bench::shape;
using heed::index_t;

struct states {
  explicit states(const shape& s)
      : h_t({s.batch, s.n, s.d}),
        h_s({s.batch, s.n, s.d}),
        out({s.batch, s.n, s.d}),
        dout({s.batch, s.n, s.d}),
        dh_t({s.batch, s.n, s.d}),
        dk({s.batch, s.n, s.d}),
        dh_s({s.batch, s.n, s.d}),
        lse({s.batch, s.n}),
        positions({s.batch, s.n}),
        v_a({s.d}),
        dv_a({s.d}) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal(0, 0.3f);
    for (heed::tensor<float, 3>* t : {&h_t, &h_s, &dout})
      for (float& x : *t) x = normal(generator);
    for (float& x : v_a) x = normal(generator);
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t i = 0; i < s.n; ++i) positions(b, i) = static_cast<float>(i) + normal(generator);
  }
  heed::tensor<float, 3> h_t, h_s, out, dout, dh_t, dk, dh_s;
  heed::tensor<float, 2> lse, positions;
  heed::tensor<float, 1> v_a, dv_a;
};

/// `work`: of a visible pair and feature.
void add(const std::string& label, const shape& s, index_t window, double work, auto call) {
  bench::add(bench::name_of({"luong", label}), s, [=](benchmark::State& state, int threads) {
    states p(s);
    const double pairs = static_cast<double>(s.batch * s.n * std::min(window, s.n));
    bench::sample<float>(state, threads, work * pairs * static_cast<double>(s.d),
                         [&] { call(p, heed::openmp(threads)); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  const shape sentences{32, 1, 1, 64, 512}, document{1, 1, 1, 2048, 256};
  for (const shape& s : {sentences, document}) {
    add("dot_forward", s, s.n, 4,
        [](states& p, heed::executor_ref where) { heed::luong_dot_forward(p.h_t, p.h_s, p.out, {.executor = where}); });
    add("local_forward", s, 21, 4, [](states& p, heed::executor_ref where) {
      heed::luong_local_forward(p.h_t, p.h_s, p.positions, p.out, {.executor = where});
    });
    add("mlp_forward", s, s.n, 1, [](states& p, heed::executor_ref where) {
      heed::luong_mlp_forward(p.h_t, p.h_s, p.v_a, p.h_s, p.out, {.lse = p.lse, .executor = where});
    });
    add("mlp_forward_backward", s, s.n, 1, [](states& p, heed::executor_ref where) {
      heed::luong_mlp_forward(p.h_t, p.h_s, p.v_a, p.h_s, p.out, {.lse = p.lse, .executor = where});
      heed::luong_mlp_backward(p.h_t, p.h_s, p.v_a, p.h_s, p.out, p.lse, p.dout, p.dh_t, p.dk, p.dv_a, p.dh_s,
                               {.executor = where});
    });
  }
  return bench::run_all(argc, argv);
}
