// heed behind a C interface, for run.py: the forward pass on memory of the caller's, and the FMA rate of this machine.
#include <heed/softmax.hpp>

#include <omp.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>

namespace {

thread_local char message[512];

template <class T>
void forward(const void* q, const void* k, const void* v, void* out, const heed::index_t (&extent)[7], bool causal,
             heed::index_t window, int threads) {
  const auto [B, H, G, N, M, D, E] = extent;
  const heed::view<const T, 4> queries(static_cast<const T*>(q), {B, H, N, D});
  const heed::view<const T, 4> keys(static_cast<const T*>(k), {B, G, M, D});
  const heed::view<const T, 4> values(static_cast<const T*>(v), {B, G, M, E});
  const heed::view<T, 4> result(static_cast<T*>(out), {B, H, N, E});

  heed::softmax_options<T> options;
  if (window > 0) options.window_left = window - 1;
  options.executor = threads == 1 ? heed::serial() : heed::openmp(threads);
  if (causal) {
    heed::softmax_forward(queries, keys, values, result, options, heed::causal{});
  } else {
    heed::softmax_forward(queries, keys, values, result, options);
  }
}

using fma_pack = heed::pack<float>;
constexpr int chains = 3 * heed::detail::register_count<heed::default_arch> / 4;

// Independent chains of multiply-adds, enough to hide the latency of the FMA units. Fully unrolled, or the chains would
// live in memory instead of registers.
double multiply_add(long steps) {
  fma_pack sum[chains];
#pragma GCC unroll 24
  for (int c = 0; c < chains; ++c) sum[c] = fma_pack(1e-3f * static_cast<float>(c));
  const fma_pack factor(0.999f);
  const fma_pack term(1e-3f);
  for (long step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int c = 0; c < chains; ++c) sum[c] = fma(sum[c], factor, term);
  }
  fma_pack all;
#pragma GCC unroll 24
  for (int c = 0; c < chains; ++c) all += sum[c];
  return static_cast<double>(reduce_add(all));
}

}  // namespace

extern "C" {

/// out = softmax(q kT / sqrt(D)) v on dense row-major q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E].
/// dtype: 0 float, 1 bfloat16, 2 float16. window: number of keys a query sees up to its own, 0 for all.
/// Returns 0, or 1 with the reason in heed_peers_message().
int heed_peers_forward(const void* q, const void* k, const void* v, void* out, long long B, long long H, long long G,
                       long long N, long long M, long long D, long long E, int causal, long long window, int dtype,
                       int threads) {
  try {
    const heed::index_t extent[7] = {B, H, G, N, M, D, E};
    if (dtype == 0) {
      forward<float>(q, k, v, out, extent, causal != 0, window, threads);
    } else if (dtype == 1) {
      forward<heed::bfloat16>(q, k, v, out, extent, causal != 0, window, threads);
    } else {
      forward<heed::float16>(q, k, v, out, extent, causal != 0, window, threads);
    }
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof message, "%s", error.what());
    return 1;
  }
}

const char* heed_peers_message() { return message; }

/// The fp32 multiply-add rate of `threads` threads in GFLOP/s: the best of a few bursts of about a millisecond.
double heed_peers_peak(int threads) {
  constexpr long steps = 200000;
  constexpr int bursts = 4;
  constexpr double flops = 2.0 * chains * fma_pack::lanes * steps;
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  double best = 0;
  double checksum = 0;
  for (int burst = 0; burst < bursts; ++burst) {
    double first = HUGE_VAL;
    double last = -HUGE_VAL;
#pragma omp parallel num_threads(threads) reduction(min : first) reduction(max : last) reduction(+ : checksum)
    {
#pragma omp barrier
      first = now();
      checksum += multiply_add(steps);
      last = now();
    }
    const double rate = flops * threads / (last - first) * 1e-9;
    if (rate > best) best = rate;
  }
  return checksum == 0 ? 0 : best;
}

/// The compiler that made this library, and the width of its vectors in bits.
const char* heed_peers_compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}
int heed_peers_vector_bits() { return 32 * fma_pack::lanes; }

}  // extern "C"
