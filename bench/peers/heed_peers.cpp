// heed behind a C interface, for run.py: the forward pass on memory of the caller's, and the FMA rate of this machine.
#include <heed/softmax.hpp>

#include "../support/peak.hpp"

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

  heed::softmax_options<T> options{};
  if (window > 0) options.window_left = window - 1;
  options.executor = threads == 1 ? heed::serial() : heed::openmp(threads);
  if (causal) {
    heed::softmax_forward(queries, keys, values, result, options, heed::causal{});
  } else {
    heed::softmax_forward(queries, keys, values, result, options);
  }
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

/// The fp32 multiply-add rate of `threads` threads in GFLOP/s, over at least `duration` seconds.
double heed_peers_peak(int threads, double duration) { return bench::fma_peak<float>(threads, duration) * 1e-9; }

/// The compiler that made this library.
const char* heed_peers_compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

/// The width in bits of the vectors it uses.
int heed_peers_vector_bits() { return 32 * heed::pack<float>::lanes; }

}  // extern "C"
