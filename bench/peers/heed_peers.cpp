// heed behind a C interface, for run.py: attention on memory of the caller's, and the FMA rate of this machine.
#include <heed/linear.hpp>
#include <heed/local.hpp>
#include <heed/softmax.hpp>

#include "../support/peak.hpp"

#include <cstdio>
#include <exception>
#include <type_traits>

namespace {

thread_local char message[512];

struct call {
  heed::index_t B, H, G, N, M, D, E;
  bool causal;
  heed::index_t window;
  int threads;
};

template <class T>
heed::view<T, 4> rows(std::conditional_t<std::is_const_v<T>, const void*, void*> data, heed::index_t batch,
                      heed::index_t heads, heed::index_t tokens, heed::index_t features) {
  return {static_cast<T*>(data), {batch, heads, tokens, features}};
}

heed::executor_ref executor(int threads) { return threads == 1 ? heed::serial() : heed::openmp(threads); }

/// f(options, mods...) as the call says.
template <class Options, class F>
void with_mask(const call& c, Options options, const F& f) {
  if (c.window > 0) options.window_left = c.window - 1;
  options.executor = executor(c.threads);
  if (c.causal)
    f(options, heed::causal{});
  else
    f(options);
}

/// Runs f() and returns what heed_peers_forward does.
template <class F>
int guarded(const F& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof message, "%s", error.what());
    return 1;
  }
}

/// The same with f(a value of the element type). dtype: 0 float, 1 bfloat16, 2 float16.
template <class F>
int guarded(int dtype, const F& f) {
  return guarded([&] {
    if (dtype == 0) {
      f(0.0f);
    } else if (dtype == 1) {
      f(heed::bfloat16());
    } else {
      f(heed::float16());
    }
  });
}

}  // namespace

extern "C" {

/// out = softmax(q kT / sqrt(D)) v on dense row-major q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E]; and lse
/// [B,H,N], unless null. window: number of keys a query sees up to its own, 0 for all. Returns 0, or 1 with the reason
/// in heed_peers_message().
int heed_peers_forward(const void* q, const void* k, const void* v, void* out, void* lse, long long B, long long H,
                       long long G, long long N, long long M, long long D, long long E, int causal, long long window,
                       int dtype, int threads) {
  return guarded(dtype, [&](auto element) {
    using T = decltype(element);
    const call c{B, H, G, N, M, D, E, causal != 0, window, threads};
    heed::softmax_options<T> options{};
    if (lse != nullptr) options.lse = heed::view<float, 3>(static_cast<float*>(lse), {B, H, N});
    with_mask(c, options, [&](const auto& with, const auto&... mods) {
      heed::softmax_forward(rows<const T>(q, B, H, N, D), rows<const T>(k, B, G, M, D), rows<const T>(v, B, G, M, E),
                            rows<T>(out, B, H, N, E), with, mods...);
    });
  });
}

/// The same by softmax_step.
int heed_peers_step(const void* q, const void* k, const void* v, void* out, long long B, long long H, long long G,
                    long long N, long long M, long long D, long long E, int causal, long long window, int dtype,
                    int threads) {
  return guarded(dtype, [&](auto element) {
    using T = decltype(element);
    const call c{B, H, G, N, M, D, E, causal != 0, window, threads};
    with_mask(c, heed::softmax_step_options<T>{}, [&](const auto& with, const auto&... mods) {
      heed::softmax_step(rows<const T>(q, B, H, N, D), rows<const T>(k, B, G, M, D), rows<const T>(v, B, G, M, E),
                         rows<T>(out, B, H, N, E), with, mods...);
    });
  });
}

/// dq, dk, dv of what forward computed, from dout [B,H,N,E].
int heed_peers_backward(const void* q, const void* k, const void* v, const void* out, const void* lse, const void* dout,
                        void* dq, void* dk, void* dv, long long B, long long H, long long G, long long N, long long M,
                        long long D, long long E, int causal, long long window, int dtype, int threads) {
  return guarded(dtype, [&](auto element) {
    using T = decltype(element);
    const call c{B, H, G, N, M, D, E, causal != 0, window, threads};
    with_mask(c, heed::softmax_backward_options<T>{}, [&](const auto& with, const auto&... mods) {
      heed::softmax_backward(rows<const T>(q, B, H, N, D), rows<const T>(k, B, G, M, D), rows<const T>(v, B, G, M, E),
                             rows<const T>(out, B, H, N, E),
                             heed::view<const float, 3>(static_cast<const float*>(lse), {B, H, N}),
                             rows<const T>(dout, B, H, N, E), rows<T>(dq, B, H, N, D), rows<T>(dk, B, G, M, D),
                             rows<T>(dv, B, G, M, E), with, mods...);
    });
  });
}

/// Gated linear attention on dense float q [B,H,N,D], k and log gates g [B,G,N,D], v [B,G,N,E], out [B,H,N,E].
int heed_peers_gated(const void* q, const void* k, const void* v, const void* g, void* out, long long B, long long H,
                     long long G, long long N, long long D, long long E, int threads) {
  return guarded([&] {
    heed::gated_linear_forward(rows<const float>(q, B, H, N, D), rows<const float>(k, B, G, N, D),
                               rows<const float>(v, B, G, N, E), rows<const float>(g, B, G, N, D),
                               rows<float>(out, B, H, N, E), {.executor = executor(threads)});
  });
}

/// The same by gated_linear_step, which takes the tokens into state [B,G,D,E].
int heed_peers_gated_step(const void* q, const void* k, const void* v, const void* g, void* out, void* state,
                          long long B, long long H, long long G, long long N, long long D, long long E, int threads) {
  return guarded([&] {
    heed::gated_linear_step(rows<const float>(q, B, H, N, D), rows<const float>(k, B, G, N, D),
                            rows<const float>(v, B, G, N, E), rows<const float>(g, B, G, N, D),
                            rows<float>(out, B, H, N, E), rows<float>(state, B, G, D, E),
                            {.executor = executor(threads)});
  });
}

/// Window attention of dense float q, k, v, out [B,H,side * side,D], table [(2 window - 1)^2,H].
int heed_peers_swin(const void* q, const void* k, const void* v, const void* table, void* out, long long B, long long H,
                    long long side, long long D, long long window, int threads) {
  return guarded([&] {
    heed::swin_options<float> options{.tokens = heed::token_grid{side, side}, .window = {window, window}};
    options.table =
        heed::view<const float, 2>(static_cast<const float*>(table), {(2 * window - 1) * (2 * window - 1), H});
    options.executor = executor(threads);
    heed::swin_forward(rows<const float>(q, B, H, side * side, D), rows<const float>(k, B, H, side * side, D),
                       rows<const float>(v, B, H, side * side, D), rows<float>(out, B, H, side * side, D), options);
  });
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
