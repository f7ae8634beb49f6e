// One program for old and new processors: picks the widest kernels that this one can run. Compiled for the oldest.
#include "attention.hpp"

#include <heed/core/tensor.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

namespace {

using tensor = heed::tensor<float, 4>;

struct kernel {
  const char* name;
  decltype(&attention::baseline::causal) causal;
};

// What this processor can run, widest first. The conditions are the flags that CMakeLists.txt compiles with.
std::vector<kernel> runnable() {
  std::vector<kernel> found;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) found.push_back({"avx512", attention::avx512::causal});
  if (avx2) found.push_back({"avx2", attention::avx2::causal});
#endif
  found.push_back({"baseline", attention::baseline::causal});
  return found;
}

tensor wave(heed::index_t heads, heed::index_t rows, heed::index_t features, float phase) {
  tensor t({1, heads, rows, features});
  for (heed::index_t i = 0; i < t.size(); ++i) t.data()[i] = std::sin(0.37f * static_cast<float>(i % 10007) + phase);
  return t;
}

double milliseconds(const kernel& with, const tensor& q, const tensor& k, const tensor& v, tensor& out) {
  double best = INFINITY;
  for (int run = 0; run < 5; ++run) {
    const auto start = std::chrono::steady_clock::now();
    with.causal(q, k, v, out);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  return best;
}

}  // namespace

int main() {
  const std::vector<kernel> kernels = runnable();
  std::printf("this processor gets: %s\n", kernels.front().name);

  const tensor q = wave(8, 1024, 64, 0), k = wave(2, 1024, 64, 1), v = wave(2, 1024, 64, 2);
  tensor first, out({1, 8, 1024, 64});
  bool agree = true;
  for (const kernel& with : kernels) {
    const double time = milliseconds(with, q, k, v, out);
    if (first.size() == 0) first = out;
    float difference = 0;
    for (heed::index_t i = 0; i < out.size(); ++i)
      difference = std::max(difference, std::abs(out.data()[i] - first.data()[i]));
    agree = agree && difference < 1e-5f;
    std::printf("%-9s %8.2f ms   differs from the first by %.1e\n", with.name, time, double(difference));
  }
  std::puts(agree ? "all agree" : "they do not agree");
  return agree ? 0 : 1;
}
