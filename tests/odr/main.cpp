// Runs every worker this CPU can run. Each must compute the same and say that it is itself.
#include "worker.hpp"

#include <heed/core/error.hpp>
#include <heed/core/tensor.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>

namespace {

constexpr int batch = 2, heads = 3, queries = 37, keys = 53, depth = 20;
int failures = 0;

void expect(bool holds, const char* machine, const char* what) {
  if (holds) return;
  std::printf("%s: %s\n", machine, what);
  ++failures;
}

heed::tensor<float, 4> wave(int rows, float phase) {
  heed::tensor<float, 4> t({batch, heads, rows, depth});
  for (heed::index_t i = 0; i < t.size(); ++i) t.data()[i] = std::sin(0.37f * static_cast<float>(i) + phase);
  return t;
}

template <class Attend>
void run(const char* machine, const char* arch, Attend attend) {
  static std::set<std::string> seen;
  expect(seen.insert(arch).second, machine, "calls code of another machine");

  const auto q = wave(queries, 0), k = wave(keys, 1), v = wave(keys, 2);
  heed::tensor<float, 4> out({batch, heads, queries, depth});
  attend(q, k, v, out);

  const heed::tensor<float, 4> narrow({batch, heads, keys, depth - 1});
  try {
    attend(q, narrow, v, out);
    expect(false, machine, "accepts keys of the wrong size");
  } catch (const heed::invalid_argument& error) {
    expect(std::strstr(error.what(), "k.extent(3)") != nullptr, machine, error.what());
  }
}

}  // namespace

int main() {
  run("v1", odr::v1::arch(), odr::v1::attend);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) run("v3", odr::v3::arch(), odr::v3::attend);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
    run("v4", odr::v4::arch(), odr::v4::attend);
  return failures;
}
