/// The ring over processes beside one process with as many threads, in alternation:
///
///     OMP_NUM_THREADS=1 mpirun --bind-to none -n 2 bench_ring_mpi [tokens] [samples]      16384 tokens, 7 samples
///
/// Open MPI would bind each of two ranks to one core, and so the one process that it is compared with.
/// Each rank works with the threads that OpenMP gives it, and rank 0 alone with those of all ranks together, while the
/// others sleep. Ratios are of the best sample of each side, and of neighbouring samples in the middle. `waiting` is the
/// share of a ring's time that its ranks waited for messages: what was not hidden behind work.
#include <heed/interop/mpi.hpp>
#include <heed/ring.hpp>
#include <heed/softmax.hpp>

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "metered.hpp"

namespace {

using heed::index_t;
using tensor = heed::tensor<float, 4>;
using clock_type = std::chrono::steady_clock;

constexpr index_t heads = 2, features = 64;

tensor random_rows(index_t rows, unsigned seed) {
  tensor t({1, heads, rows, features});
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (float& x : t) x = normal(random);
  return t;
}

double seconds_of(const std::function<void()>& call) {
  const auto start = clock_type::now();
  call();
  return std::chrono::duration<double>(clock_type::now() - start).count();
}

/// All ranks wait for each other and leave processors alone: barriers of MPI keep them busy.
void sleep_until_all_are_here() {
  MPI_Request request;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int there = 0; MPI_Test(&request, &there, MPI_STATUS_IGNORE), there == 0;)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

double most_of(double value) {
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return value;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <class... Mods>
void compare(heed::mpi_transport& plain, const char* name, index_t tokens, int samples,
             const heed::token_layout& layout, const Mods&... mods) {
  const index_t n = layout.count(plain.rank());
  const auto seed = static_cast<unsigned>(plain.rank());
  const tensor q = random_rows(n, seed), k = random_rows(n, seed + 100), v = random_rows(n, seed + 200);
  tensor out({1, heads, n, features});
  // Of rank 0 alone.
  const index_t all = plain.rank() == 0 ? tokens : 0;
  const tensor all_q = random_rows(all, 1), all_k = random_rows(all, 2), all_v = random_rows(all, 3);
  tensor all_out({1, heads, all, features});

  std::vector<double> alone, ring, ratios, waiting;
  for (int sample = -1; sample < samples; ++sample) {
    sleep_until_all_are_here();
    double one = 0;
    if (plain.rank() == 0)
      one = seconds_of([&] {
        heed::softmax_forward(all_q, all_k, all_v, all_out,
                              {.executor = heed::openmp(plain.size() * omp_get_max_threads())}, mods...);
      });
    sleep_until_all_are_here();
    one = most_of(one);
    long_context::metered ranks(plain, [] {});
    ranks.barrier();
    const double many = most_of(seconds_of([&] {
      heed::ring_forward(ranks, q, k, v, out, {.layout = layout}, mods...);
      ranks.barrier();
    }));
    const double waited = most_of(ranks.seconds_waited());
    if (sample < 0) continue;  // touches memory, starts threads
    alone.push_back(one);
    ring.push_back(many);
    ratios.push_back(one / many);
    waiting.push_back(waited / many);
  }
  if (plain.rank() != 0) return;
  const double best_alone = *std::min_element(alone.begin(), alone.end());
  const double best_ring = *std::min_element(ring.begin(), ring.end());
  std::printf("%-22s %12.3f %10.3f %16.2f (%.2f) %14.1f %%\n", name, best_alone, best_ring, best_alone / best_ring,
              median(ratios), 100 * median(waiting));
  std::fflush(stdout);
}

/// Processors that this rank may use.
int processors() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

int main(int argc, char** argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  {
    heed::mpi_transport ranks(MPI_COMM_WORLD);
    const index_t tokens = argc > 1 ? std::atoll(argv[1]) : 16384;
    const int samples = argc > 2 ? std::atoi(argv[2]) : 7, P = ranks.size();
    if (ranks.rank() == 0 && processors() < P * omp_get_max_threads()) {
      std::fprintf(stderr, "bench_ring_mpi: one process of %d threads has %d processor(s); start with --bind-to none\n",
                   P * omp_get_max_threads(), processors());
      MPI_Abort(MPI_COMM_WORLD, 2);
    }
    if (ranks.rank() == 0)
      std::printf("softmax, float, 1 x %lld x %lld x %lld, %d ranks of %d threads\n%-22s %12s %10s %23s %16s\n",
                  static_cast<long long>(heads), static_cast<long long>(tokens), static_cast<long long>(features), P,
                  omp_get_max_threads(), "", "one process", "ring", "speed (median)", "waiting");
    compare(ranks, "no mask, contiguous", tokens, samples, heed::contiguous_layout(tokens, P));
    compare(ranks, "causal, zigzag", tokens, samples, heed::zigzag_layout(tokens, P), heed::causal{});
    compare(ranks, "causal, striped", tokens, samples, heed::striped_layout(tokens, P), heed::causal{});
    compare(ranks, "causal, contiguous", tokens, samples, heed::contiguous_layout(tokens, P), heed::causal{});
  }
  MPI_Finalize();
}
