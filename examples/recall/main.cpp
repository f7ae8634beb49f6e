// Trains small models that differ in their mixer alone on associative recall, and shows what each remembers with which
// state.
#include <chrono>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "arguments.hpp"
#include "run.hpp"

namespace {

using namespace command_line;
using namespace recall;

constexpr const char* usage = R"(usage: recall [option]...

Trains two-layer models on multi-query associative recall, several seeds each, and prints what they recall in the end.
The first layer is a convolution over four tokens, the second a mixer: softmax attention, linear attention, gated linear
attention (GLA) or gated slot attention (GSA).

  --mixer NAME      softmax, linear, gla or gsa; may be given several times (default: all four)
  --pairs P         pairs of a key and a value in a sequence (default: 64)
  --slots S         slots of GSA (default: 72)
  --features D      head size of GSA and softmax attention (default: 4)
  --map NAME        what linear attention makes of queries and keys: elu, which is elu + 1, identity, relu, exp or
                    softmax; normalised but for identity (default: elu)
  --steps N         training steps (default: 3000)
  --rate X          highest learning rate (default: 0.02)
  --seeds N         trainings of each mixer (default: 3)
  --csv FILE        where to write the course of training (default: recall.csv)
  --help            print this

OMP_NUM_THREADS sets how many trainings run at a time.
)";

struct arguments {
  std::vector<std::string> mixers;
  settings training;
  index_t seeds = 3;
  std::string csv = "recall.csv";
  bool help = false;
};

heed::feature_map map_of(std::string_view name) {
  if (name == "elu") return heed::feature_map::elu_plus_one;
  if (name == "identity") return heed::feature_map::identity;
  if (name == "relu") return heed::feature_map::relu;
  if (name == "exp") return heed::feature_map::exp;
  if (name == "softmax") return heed::feature_map::softmax;
  throw usage_error("--map needs elu, identity, relu, exp or softmax, not '" + std::string(name) + "'");
}

arguments read_arguments(int count, char** given) {
  arguments a;
  for_each_option(count, given, [&](std::string_view option, const auto& value) {
    if (option == "--help") {
      a.help = true;
    } else if (option == "--mixer") {
      a.mixers.emplace_back(value());
      if (a.mixers.back() != "softmax" && a.mixers.back() != "linear" && a.mixers.back() != "gla" &&
          a.mixers.back() != "gsa")
        throw usage_error("--mixer needs softmax, linear, gla or gsa, not '" + a.mixers.back() + "'");
    } else if (option == "--pairs") {
      a.training.pairs = number<index_t>(option, value(), 2, 512);
    } else if (option == "--slots") {
      a.training.slots = number<index_t>(option, value(), 1, 1024);
    } else if (option == "--features") {
      a.training.features = number<index_t>(option, value(), 1, 256);
    } else if (option == "--map") {
      a.training.features_of_keys = map_of(value());
    } else if (option == "--rate") {
      a.training.rate = number<double>(option, value(), 1e-6, 1);
    } else if (option == "--steps") {
      a.training.steps = number<index_t>(option, value(), 1, 1000000);
    } else if (option == "--seeds") {
      a.seeds = number<index_t>(option, value(), 1, 100);
    } else if (option == "--csv") {
      a.csv = value();
    } else {
      throw usage_error("there is no option '" + std::string(option) + "'");
    }
  });
  if (a.mixers.empty()) a.mixers = {"softmax", "linear", "gla", "gsa"};
  return a;
}

/// Trains every mixer with every seed; trainings run side by side, each on one thread. GSA takes longest, so the last
/// ones begin.
std::vector<result> train_all(const arguments& a) {
  std::FILE* const csv = std::fopen(a.csv.c_str(), "w");
  if (csv == nullptr) throw std::runtime_error("cannot write '" + a.csv + "'");
  std::fprintf(csv, "mixer,seed,state,step,pairs,loss,accuracy,recall\n");

  const auto runs = static_cast<index_t>(a.mixers.size()) * a.seeds;
  std::vector<result> results(static_cast<std::size_t>(runs));
#if defined(_OPENMP)
#pragma omp parallel for schedule(dynamic, 1)
#endif
  for (index_t run_from_last = 0; run_from_last < runs; ++run_from_last) {
    const index_t run = runs - 1 - run_from_last;
    const std::string& mixer = a.mixers[static_cast<std::size_t>(run / a.seeds)];
    const auto seed = static_cast<unsigned>(run % a.seeds + 1);
    results[static_cast<std::size_t>(run)] = train(mixer, seed, a.training, [&](const progress& p) {
#if defined(_OPENMP)
#pragma omp critical(report)
#endif
      {
        std::printf("%-7s seed %u  step %4lld  loss %.4f  accuracy %.3f of %lld pairs  recall %.3f of %lld\n",
                    mixer.c_str(), seed, static_cast<long long>(p.step), p.loss, p.accuracy,
                    static_cast<long long>(p.pairs), p.recall, static_cast<long long>(a.training.pairs));
        std::fflush(stdout);
        std::fprintf(csv, "%s,%u,%lld,%lld,%lld,%.6f,%.6f,%.6f\n", mixer.c_str(), seed, static_cast<long long>(p.state),
                     static_cast<long long>(p.step), static_cast<long long>(p.pairs), p.loss, p.accuracy, p.recall);
      }
    });
  }
  std::fclose(csv);
  return results;
}

void print_table(const arguments& a, const std::vector<result>& results) {
  std::printf("\n%-7s  %10s  %10s  %11s  %s\n", "mixer", "parameters", "state", "mean recall", "of each seed");
  for (std::size_t m = 0; m < a.mixers.size(); ++m) {
    const result* const seeds = &results[m * static_cast<std::size_t>(a.seeds)];
    double sum = 0;
    for (index_t seed = 0; seed < a.seeds; ++seed) sum += seeds[seed].recall;
    std::printf("%-7s  %10lld  %10lld  %11.3f ", a.mixers[m].c_str(), static_cast<long long>(seeds[0].parameters),
                static_cast<long long>(seeds[0].state), sum / static_cast<double>(a.seeds));
    for (index_t seed = 0; seed < a.seeds; ++seed) std::printf(" %.3f", seeds[seed].recall);
    std::printf("\n");
  }
  std::printf("state: floats of the mixer; of softmax attention the keys and values of a whole sequence\n");
}

}  // namespace

int main(int count, char** given) {
  try {
    const arguments a = read_arguments(count, given);
    if (a.help) {
      std::fputs(usage, stdout);
      return 0;
    }
    const auto start = std::chrono::steady_clock::now();
    print_table(a, train_all(a));
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    std::printf("%.0f s in all; the course of training is in %s\n", time.count(), a.csv.c_str());
    return 0;
  } catch (const usage_error& error) {
    std::fprintf(stderr, "recall: %s; see recall --help\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "recall: %s\n", error.what());
    return 1;
  }
}
