// Exact causal attention over a long sequence that is spread over ranks, processes of MPI or threads, and whether it
// finds what is hidden there.
#include <heed/core/in_process.hpp>
#if defined(LONG_CONTEXT_MPI)
#include <heed/interop/mpi.hpp>
#endif

#include <cstdio>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>

#include "arguments.hpp"
#include "search.hpp"

namespace {

using namespace command_line;
using namespace long_context;

constexpr const char* usage = R"(usage: [mpirun -n P] long_context [option]...

Attention of every token to all before it, over a sequence that no rank has in whole. Its last tokens ask for sentences
hidden in it.

  --tokens N        length of the sequence, 1024 to 1048576 (default: 65536)
  --layout NAME     how ranks share it: zigzag, striped or contiguous (default: zigzag)
  --window W        tokens that a token looks back; 0: all (default: 0)
  --ranks P         without mpirun: threads that stand for ranks, 1 to 64 (default: 4)
  --help            print this

Under mpirun, OMP_NUM_THREADS sets the threads of each rank.
)";

struct arguments {
  settings search;
  int ranks = 4;
  bool help = false;
};

arguments read_arguments(int count, char** given) {
  arguments a;
  for_each_option(count, given, [&](std::string_view option, const auto& value) {
    if (option == "--tokens") {
      a.search.tokens = number<index_t>(option, value(), 1024, 1 << 20);
    } else if (option == "--layout") {
      a.search.layout = value();
      if (a.search.layout != "striped" && a.search.layout != "zigzag" && a.search.layout != "contiguous")
        throw usage_error("--layout needs zigzag, striped or contiguous, not '" + a.search.layout + "'");
    } else if (option == "--window") {
      a.search.window = number<index_t>(option, value(), 0, 1 << 20);
    } else if (option == "--ranks") {
      a.ranks = number<int>(option, value(), 1, 64);
    } else if (option == "--help" || option == "-h") {
      a.help = true;
    } else {
      throw usage_error("unknown option '" + std::string(option) + "'");
    }
  });
  return a;
}

double megabytes(index_t bytes) { return static_cast<double>(bytes) / 1e6; }

/// What a rank does. Rank 0 shows where it is, and what came out.
template <heed::transport Ranks>
bool run(Ranks& ranks, const settings& s, const heed::executor_ref& executor, const char* of) {
  const int P = ranks.size();
  const bool shows = ranks.rank() == 0;
  if (shows) std::printf("%lld tokens, %s, over %d %s\n", static_cast<long long>(s.tokens), s.layout.c_str(), P, of);
  const auto start = std::chrono::steady_clock::now();
  const outcome o = search(ranks, s, executor, [&](int step) {
    if (!shows) return;
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    std::printf("%7.1f s  step %d of %d, and the next keys on their way\n", time.count(), step, P);
    std::fflush(stdout);
  });

  // One rank after the other.
  for (int r = 0; r < P; ++r) {
    ranks.barrier();
    if (r != ranks.rank()) continue;
    std::printf("rank %d     %.1f s, %.1f %% of it waiting; holds %.1f MB and %.1f MB of scratch; sent %.1f MB\n", r,
                o.seconds, 100 * o.seconds_waited / o.seconds, megabytes(o.bytes_held), megabytes(o.bytes_of_scratch),
                megabytes(o.bytes_sent));
    std::fflush(stdout);
  }
  ranks.barrier();
  if (shows) {
    const double flops = 4.0 * static_cast<double>(heads * features) * visible_pairs(s);
    std::printf("%.1f GFLOP/s in all\n\n", flops / o.seconds / 1e9);
    const haystack hay(s.tokens);
    for (index_t i = 0; i < needle_count; ++i) {
      const answer& found = o.answers[static_cast<std::size_t>(i)];
      std::printf("token %7lld  %s%s\n", static_cast<long long>(hay.place(i)), found.text.c_str(),
                  found.within_reach ? "" : "  (out of the window)");
    }
  }
  return all_right(o);
}

bool run_on_threads(const arguments& a) {
  heed::in_process_group group(a.ranks);
  bool right = true;
  std::mutex one;
  group.run([&](heed::in_process_transport& ranks) {
    const bool mine = run(ranks, a.search, heed::serial(), "threads");
    const std::lock_guard<std::mutex> lock(one);
    right = right && mine;
  });
  return right;
}

int run_program(int count, char** given, int processes) {
  const arguments a = read_arguments(count, given);
  if (a.help) {
    std::fputs(usage, stdout);
    return 0;
  }
  bool right = false;
#if defined(LONG_CONTEXT_MPI)
  if (processes > 1) {
    heed::mpi_transport ranks(MPI_COMM_WORLD);
    try {
      right = run(ranks, a.search, {}, "processes");
    } catch (...) {
      ranks.abort(1);
    }
  }
#endif
  if (processes == 1) right = run_on_threads(a);
  if (right) return 0;
  std::fprintf(stderr, "long_context: what was found is not what was hidden\n");
  return 1;
}

int report_errors(int count, char** given, int processes) {
  try {
    return run_program(count, given, processes);
  } catch (const usage_error& error) {
    std::fprintf(stderr, "long_context: %s; see long_context --help\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "long_context: %s\n", error.what());
    return 1;
  }
}

}  // namespace

int main(int count, char** given) {
#if defined(LONG_CONTEXT_MPI)
  int level = 0, processes = 1;
  MPI_Init_thread(&count, &given, MPI_THREAD_FUNNELED, &level);
  MPI_Comm_size(MPI_COMM_WORLD, &processes);
  const int code = report_errors(count, given, processes);
  MPI_Finalize();
  return code;
#else
  return report_errors(count, given, 1);
#endif
}
