/// The ring: how evenly layouts share the work, counted; two ranks of one thread beside one process of two threads, in
/// alternation; and a million tokens block by block.
///
///     bench_ring [tokens] [samples] [tokens block by block]      16384 tokens, 7 samples, 1048576
///
/// Ratios of times are those of the best sample of each side, and of pairs of neighbouring samples in the middle.
#include <heed/core/in_process.hpp>
#include <heed/ring.hpp>
#include <heed/softmax.hpp>

#include "support/samples.hpp"

#include <cstdio>
#include <cstdlib>
#include <numeric>

namespace {

using heed::index_t;
using tensor = heed::tensor<float, 4>;

struct named_layout {
  const char* name;
  heed::token_layout layout;
};

void print_balance(index_t tokens, int ranks) {
  std::printf("causal pairs a head, %lld tokens, %d ranks\n%-12s %10s %10s %22s\n", static_cast<long long>(tokens),
              ranks, "layout", "max/mean", "makespan", "contiguous/this");
  double contiguous = 0;
  for (const named_layout& l : {named_layout{"contiguous", heed::contiguous_layout(tokens, ranks)},
                                named_layout{"striped", heed::striped_layout(tokens, ranks)},
                                named_layout{"zigzag", heed::zigzag_layout(tokens, ranks)}}) {
    std::vector<double> of_rank(static_cast<std::size_t>(ranks), 0.0);
    double makespan = 0;
    for (int s = 0; s < ranks; ++s) {
      double slowest = 0;
      for (int r = 0; r < ranks; ++r) {
        const auto pairs = static_cast<double>(heed::ring_work(r, s, {.layout = l.layout}, heed::causal{}));
        of_rank[static_cast<std::size_t>(r)] += pairs;
        slowest = std::max(slowest, pairs);
      }
      makespan += slowest;
    }
    if (contiguous == 0) contiguous = makespan;
    const double mean = std::accumulate(of_rank.begin(), of_rank.end(), 0.0) / ranks;
    std::printf("%-12s %10.4f %10.0f %22.3f\n", l.name, *std::max_element(of_rank.begin(), of_rank.end()) / mean,
                makespan, contiguous / makespan);
  }
}

struct timing {
  std::vector<double> ours, theirs;

  double best() const {
    return *std::min_element(theirs.begin(), theirs.end()) / *std::min_element(ours.begin(), ours.end());
  }
  double middle() const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(theirs[i] / ours[i]);
    std::sort(ratios.begin(), ratios.end());
    return ratios[ratios.size() / 2];
  }
};

template <class Call>
double time_of(const Call& call) {
  const auto start = bench::clock::now();
  call();
  return bench::seconds(start, bench::clock::now());
}

/// Two ranks, each with its rows already dealt out, beside softmax_forward on two threads.
template <class... Mods>
void print_two_ranks(const char* name, index_t tokens, int samples, const heed::token_layout& layout,
                     const Mods&... mods) {
  const bench::shape all{1, 2, 2, tokens, 64};
  bench::problem<float> whole(all);
  std::vector<bench::problem<float>> own;
  for (int r = 0; r < 2; ++r) {
    bench::problem<float>& p = own.emplace_back(bench::shape{1, 2, 2, layout.count(r), 64});
    heed::to_layout(whole.q, p.q, layout, r);
    heed::to_layout(whole.k, p.k, layout, r);
    heed::to_layout(whole.v, p.v, layout, r);
  }
  timing times;
  for (int i = 0; i <= samples; ++i) {
    heed::in_process_group group(2);
    const double ring = time_of([&] {
      group.run([&](heed::in_process_transport& ranks) {
        bench::problem<float>& p = own[static_cast<std::size_t>(ranks.rank())];
        heed::ring_forward(ranks, p.q, p.k, p.v, p.out, {.layout = layout, .executor = heed::serial()}, mods...);
      });
    });
    const double one = time_of(
        [&] { heed::softmax_forward(whole.q, whole.k, whole.v, whole.out, {.executor = heed::openmp(2)}, mods...); });
    if (i == 0) continue;  // first touches
    times.ours.push_back(ring);
    times.theirs.push_back(one);
  }
  std::printf("%-28s one process / two ranks: best %.3f, median %.3f (%.0f ms)\n", name, times.best(), times.middle(),
              1e3 * *std::min_element(times.ours.begin(), times.ours.end()));
}

void print_blockwise(index_t tokens, index_t rows, int samples) {
  const bench::shape s{1, 1, 1, tokens, 64};
  bench::problem<float> p(s);
  timing times;
  index_t scratch = 0;
  for (int i = 0; i < samples; ++i) {
    index_t at = 0;
    auto blocks = [&](heed::key_value_block<float>& block) {
      if (at >= tokens) return false;
      const index_t end = std::min(tokens, at + rows);
      block.k = p.k.all().slice(2, at, end);
      block.v = p.v.all().slice(2, at, end);
      at = end;
      return true;
    };
    const heed::blockwise_options<float> options{.window_left = 4095, .executor = heed::openmp(2)};
    scratch = heed::blockwise_forward_scratch_bytes<float>(p.q, 64, options);
    times.ours.push_back(time_of([&] { heed::blockwise_forward(p.q, blocks, p.out, options, heed::causal{}); }));
    times.theirs.push_back(time_of([&] {
      heed::softmax_forward(p.q, p.k, p.v, p.out, {.window_left = 4095, .executor = heed::openmp(2)}, heed::causal{});
    }));
  }
  std::printf(
      "%lld tokens, window 4096, blocks of %lld: %.1f s, softmax_forward / this: best %.3f, median %.3f; scratch "
      "%.1f MiB\n",
      static_cast<long long>(tokens), static_cast<long long>(rows),
      *std::min_element(times.ours.begin(), times.ours.end()), times.best(), times.middle(),
      static_cast<double>(scratch) / (1 << 20));
}

index_t argument(int argc, char** argv, int i, index_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; }

}  // namespace

int main(int argc, char** argv) {
  const index_t tokens = argument(argc, argv, 1, 16384);
  const int samples = static_cast<int>(argument(argc, argv, 2, 7));
  const index_t many = argument(argc, argv, 3, 1 << 20);
  print_balance(tokens, 8);
  print_two_ranks("all pairs, contiguous", tokens, samples, heed::contiguous_layout(tokens, 2));
  print_two_ranks("causal, contiguous", tokens, samples, heed::contiguous_layout(tokens, 2), heed::causal{});
  print_two_ranks("causal, striped", tokens, samples, heed::striped_layout(tokens, 2), heed::causal{});
  print_two_ranks("causal, zigzag", tokens, samples, heed::zigzag_layout(tokens, 2), heed::causal{});
  if (many > 0)
    for (const index_t rows : {4096, 32768}) print_blockwise(many, rows, 1 + samples / 4);
}
