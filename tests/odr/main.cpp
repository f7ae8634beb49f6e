// Runs every worker this CPU can run. Each must compute what the definition says, in code of its own.
#include "worker.hpp"

#include <heed/core/error.hpp>
#include <heed/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <vector>

namespace {

using tensor = heed::tensor<float, 4>;

constexpr int batch = 2, heads = 3, queries = 37, keys = 53, depth = 20;
int failures = 0;

void expect(bool holds, const char* machine, const char* what) {
  if (holds) return;
  std::printf("%s: %s\n", machine, what);
  ++failures;
}

tensor wave(int rows, float phase) {
  tensor t({batch, heads, rows, depth});
  for (heed::index_t i = 0; i < t.size(); ++i) t.data()[i] = std::sin(0.37f * static_cast<float>(i) + phase);
  return t;
}

double worst_error(const tensor& q, const tensor& k, const tensor& v, const tensor& out) {
  double worst = 0;
  for (int b = 0; b < batch; ++b)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < queries; ++i) {
        const int position = i + keys - queries;
        double total = 0;
        std::vector<double> row(depth);
        for (int j = 0; j <= position; ++j) {
          double score = 0;
          for (int d = 0; d < depth; ++d) score += double(q(b, h, i, d)) * k(b, h, j, d);
          const double weight = std::exp(30 * std::tanh(score / std::sqrt(double(depth)) / 30) - (position - j));
          total += weight;
          for (int d = 0; d < depth; ++d) row[d] += weight * v(b, h, j, d);
        }
        for (int d = 0; d < depth; ++d) worst = std::max(worst, std::abs(row[d] / total - out(b, h, i, d)));
      }
  return worst;
}

template <class Attend>
void run(const char* machine, const char* arch, int lanes, int expected_lanes, Attend attend) {
  static std::set<std::string> seen;
  expect(seen.insert(arch).second, machine, "calls code of another machine");
  expect(lanes == expected_lanes, machine, "has registers of another machine");

  const tensor q = wave(queries, 0), k = wave(keys, 1), v = wave(keys, 2);
  tensor out({batch, heads, queries, depth});
  attend(q, k, v, out);
  const double error = worst_error(q, k, v, out);
  expect(error < 1e-5, machine, "is wrong");

  const tensor narrow({batch, heads, keys, depth - 1});
  try {
    attend(q, narrow, v, out);
    expect(false, machine, "accepts keys of the wrong size");
  } catch (const heed::invalid_argument& invalid) {
    expect(std::strstr(invalid.what(), "k.extent(3)") != nullptr, machine, invalid.what());
  }
  std::printf("%s: %s, %d lanes, error %.1e\n", machine, arch, lanes, error);
}

}  // namespace

int main() {
  run("v1", odr::v1::arch(), odr::v1::lanes(), 4, odr::v1::attend);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    run("v3", odr::v3::arch(), odr::v3::lanes(), 8, odr::v3::attend);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    run("v4", odr::v4::arch(), odr::v4::lanes(), 16, odr::v4::attend);
  return failures == 0 ? 0 : 1;
}
