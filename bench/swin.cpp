/// Window and channel attention: time, GFLOP/s and the share of the multiply-add peak measured beside every sample; for
/// Swin's first stage also how many times as long softmax attention of each window takes in Eigen, in alternation.
///
///     bench_swin [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: <operator>/<form>/float32/<case>/B/H/N/D/threads, with E = D. FLOPs: 2 (D + E) for each pair that a window
/// holds, cut or not, and 4 C^2 a position of channel attention; 5 / 2 of that for gradients.
#include <heed/local.hpp>

#include "support/samples.hpp"

#include <Eigen/Core>

#include <cmath>
#include <string>
#include <vector>

namespace {

using bench::shape;
using heed::index_t;
using tensor = heed::tensor<float, 4>;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct problem : bench::problem<float> {
  problem(const shape& s, index_t of_window)
      : bench::problem<float>(s), window(of_window), side(static_cast<index_t>(std::sqrt(static_cast<double>(s.n)))) {
    std::mt19937 generator(10);
    std::normal_distribution<float> normal;
    table = heed::tensor<float, 2>({(2 * window - 1) * (2 * window - 1), s.heads});
    for (float& x : table) x = normal(generator);
  }
  index_t window, side;
  heed::tensor<float, 2> table;

  template <class Options>
  Options options(index_t shift, int threads) const {
    Options o;
    o.tokens = heed::token_grid{side, side};
    o.window = {window, window};
    o.shift = {shift, shift};
    o.table = table;
    o.executor = threads == 1 ? heed::serial() : heed::openmp(threads);
    return o;
  }
};

/// What one would write without heed: each window is copied, multiplied, weighed row by row, and copied back.
class eigen_windows {
 public:
  explicit eigen_windows(const problem& p) {
    const index_t w = p.window;
    for (index_t h = 0; h < p.q.extent(1); ++h) {
      bias_.emplace_back(w * w, w * w);
      for (index_t i = 0; i < w * w; ++i)
        for (index_t j = 0; j < w * w; ++j)
          bias_.back()(i, j) = p.table((i / w - j / w + w - 1) * (2 * w - 1) + i % w - j % w + w - 1, h);
    }
  }

  void run(problem& p, int threads) const {
    const index_t w = p.window, n = w * w, D = p.q.extent(3), across = p.side / w;
    const float scale = 1 / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(threads)
    {
      matrix q(n, D), k(n, D), v(n, D), out(n, D), scores(n, n);
      Eigen::VectorXf top(n), sum(n);
#pragma omp for collapse(3)
      for (index_t b = 0; b < p.q.extent(0); ++b)
        for (index_t h = 0; h < p.q.extent(1); ++h)
          for (index_t strip = 0; strip < across; ++strip)
            for (index_t x = 0; x < across; ++x) {
              const auto run_of = [&](tensor& t, index_t y) {
                return Eigen::Map<matrix>(&t(b, h, (strip * w + y) * p.side + x * w, 0), w, D);
              };
              for (index_t y = 0; y < w; ++y) {
                q.middleRows(y * w, w) = scale * run_of(p.q, y);
                k.middleRows(y * w, w) = run_of(p.k, y);
                v.middleRows(y * w, w) = run_of(p.v, y);
              }
              scores = bias_[static_cast<std::size_t>(h)];
              scores.noalias() += q * k.transpose();
              top = scores.rowwise().maxCoeff();
              scores = (scores.colwise() - top).array().exp().matrix();
              sum = scores.rowwise().sum();
              out.noalias() = scores * v;
              for (index_t y = 0; y < w; ++y)
                run_of(p.out, y) =
                    (out.middleRows(y * w, w).array().colwise() / sum.segment(y * w, w).array()).matrix();
            }
    }
  }

 private:
  std::vector<matrix> bias_;
};

double flops_of(const shape& s, index_t window) {
  return 4 * static_cast<double>(s.batch * s.heads * s.n * window * window * s.d);
}

std::string label(index_t window, index_t shift) { return std::to_string(window) + (shift > 0 ? "_shifted" : ""); }

void add_forward(const shape& s, index_t window, index_t shift) {
  bench::add(bench::name_of({"swin", "forward", "float32", label(window, shift)}), s,
             [=](benchmark::State& state, int threads) {
               problem p(s, window);
               const auto options = p.options<heed::swin_options<float>>(shift, threads);
               bench::sample<float>(state, threads, flops_of(s, window),
                                    [&] { heed::swin_forward(p.q, p.k, p.v, p.out, options); });
             });
}

void add_backward(const shape& s, index_t window, index_t shift) {
  bench::add(bench::name_of({"swin", "backward", "float32", label(window, shift)}), s,
             [=](benchmark::State& state, int threads) {
               problem p(s, window);
               tensor dout({s.batch, s.heads, s.n, s.d}), dq = dout, dk = dout, dv = dout;
               bench::fill_normal(dout, 12);
               heed::tensor<float, 3> lse({s.batch, s.heads, s.n});
               heed::tensor<float, 2> dtable = p.table;
               auto forward = p.options<heed::swin_options<float>>(shift, threads);
               forward.lse = lse;
               heed::swin_forward(p.q, p.k, p.v, p.out, forward);
               auto options = p.options<heed::swin_backward_options<float>>(shift, threads);
               options.dtable = dtable;
               bench::sample<float>(state, threads, 2.5 * flops_of(s, window),
                                    [&] { heed::swin_backward(p.q, p.k, p.v, p.out, lse, dout, dq, dk, dv, options); });
             });
}

/// Samples of Eigen, each beside one of heed.
void add_eigen(const shape& s, index_t window) {
  bench::add(
      bench::name_of({"swin", "forward_in_eigen", "float32", label(window, 0)}), s,
      [=](benchmark::State& state, int threads) {
        problem p(s, window);
        const eigen_windows eigen(p);
        const auto options = p.options<heed::swin_options<float>>(0, threads);
        bench::compare(
            state, threads, [&] { eigen.run(p, threads); }, [&] { heed::swin_forward(p.q, p.k, p.v, p.out, options); });
      },
      31);
}

void add_channel(const shape& s) {
  const double flops = 4 * static_cast<double>(s.batch * s.heads * s.n * s.d * s.d);
  bench::add(bench::name_of({"channel", "forward", "float32", "full"}), s, [=](benchmark::State& state, int threads) {
    bench::problem<float> p(s);
    bench::sample<float>(state, threads, flops,
                         [&] { heed::channel_forward(p.q, p.k, p.v, p.out, {.executor = heed::openmp(threads)}); });
  });
  bench::add(bench::name_of({"channel", "backward", "float32", "full"}), s, [=](benchmark::State& state, int threads) {
    bench::problem<float> p(s);
    tensor dq = p.out, dk = p.out, dv = p.out;
    bench::sample<float>(state, threads, 2.5 * flops, [&] {
      heed::channel_backward(p.q, p.k, p.v, p.q, dq, dk, dv, {.executor = heed::openmp(threads)});
    });
  });
}

}  // namespace

int main(int argc, char** argv) {
  // The first stage of Swin-T for 32 images: 2048 windows.
  const shape first{32, 3, 3, 56 * 56, 32};
  add_forward(first, 7, 0);
  add_forward(first, 7, 3);
  add_forward({8, 6, 6, 64 * 64, 32}, 8, 4);
  add_forward({8, 4, 4, 48 * 48, 32}, 12, 6);
  add_backward(first, 7, 3);
  add_eigen(first, 7);
  add_channel({8, 3, 3, 56 * 56, 32});
  add_channel({1, 12, 12, 28 * 28, 64});
  return bench::run_all(argc, argv);
}
