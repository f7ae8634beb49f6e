/// The linear family: time, GFLOP/s and the share of the multiply-add peak measured beside every sample; for steps, bytes
/// of state a second and the share of the rate at which memory is updated in place.
///
///     bench_linear [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: <operator>/<form>/float32/<case>/B/H/N/D/threads, with E = D, 64 slots, and a case that names the chunk.
/// FLOPs: 2 per multiply-add of the chunked form, 2 D E + (C + 1) / 2 (D + E) of them a token, and their likes.
#include <heed/linear.hpp>

#include "support/samples.hpp"

#include <cmath>
#include <string>

namespace {

using bench::shape;
using heed::index_t;
using tensor = heed::tensor<float, 4>;

constexpr index_t slots = 64;

/// logsigmoid(x) / tau of normal deviates, as layers make their gates.
void fill_gates(tensor& gates, unsigned seed, float tau = 16) {
  bench::fill_normal(gates, seed);
  for (float& g : gates) g = (std::min(g, 0.f) - std::log1p(std::exp(-std::abs(g)))) / tau;
}

struct problem : bench::problem<float> {
  explicit problem(const shape& s)
      : bench::problem<float>(s),
        g({s.batch, s.kv_heads, s.n, s.d}),
        slot_g({s.batch, s.kv_heads, s.n, slots}),
        slot_s({s.batch, s.kv_heads, s.n, slots}),
        slopes(heed::lightning_slopes<float>(s.heads)) {
    fill_gates(g, 10);
    fill_gates(slot_g, 11, 8);
    for (index_t i = 0; i < slot_g.size(); ++i) slot_s.data()[i] = -std::expm1(slot_g.data()[i]);
  }
  tensor g, slot_g, slot_s;
  heed::tensor<float, 1> slopes;
};

struct gradients : problem {
  explicit gradients(const shape& s)
      : problem(s),
        dout({s.batch, s.heads, s.n, s.d}),
        dq({s.batch, s.heads, s.n, s.d}),
        dk({s.batch, s.kv_heads, s.n, s.d}),
        dv({s.batch, s.kv_heads, s.n, s.d}),
        dg({s.batch, s.kv_heads, s.n, s.d}),
        scores({s.batch, s.heads, s.n, slots}),
        slot_ds({s.batch, s.kv_heads, s.n, slots}),
        slot_dg({s.batch, s.kv_heads, s.n, slots}) {
    bench::fill_normal(dout, 12);
  }
  tensor dout, dq, dk, dv, dg, scores, slot_ds, slot_dg;
};

/// 2 (state terms + (C + 1) / 2 terms within the chunk) a token.
double flops_of(const shape& s, index_t chunk, double state, double within) {
  return 2 * static_cast<double>(s.batch * s.heads * s.n) * (state + static_cast<double>(chunk + 1) / 2 * within);
}

/// A call of whole sequences: run(problem, chunk, executor).
template <class Problem, class Run>
void add(const std::string& name, const shape& s, index_t chunk, double state, double within, const Run& run) {
  std::string label = "chunk";
  label += std::to_string(chunk);
  bench::add(bench::name_of({name, "float32", label}), s, [=](benchmark::State& bench_state, int threads) {
    Problem p(s);
    bench::sample<float>(bench_state, threads, flops_of(s, chunk, state, within),
                         [&] { run(p, chunk, heed::openmp(threads)); });
    const double token_heads = static_cast<double>(s.batch * s.heads * s.n);
    bench_state.counters["tokens_best"] = bench_state.counters["gflops_best"] * 1e9 /
                                          flops_of(s, chunk, state, within) * token_heads /
                                          static_cast<double>(s.heads);
  });
}

void add_forwards(const shape& s, index_t chunk) {
  const double d = static_cast<double>(s.d), m = slots;
  add<problem>("linear/forward", s, chunk, 2 * d * d, 2 * d, [](problem& p, index_t c, heed::executor_ref where) {
    heed::linear_forward(
        p.q, p.k, p.v, p.out,
        {.map = heed::feature_map::identity, .normalise = false, .causal = true, .chunk = c, .executor = where});
  });
  add<problem>("lightning/forward", s, chunk, 2 * d * d, 2 * d, [](problem& p, index_t c, heed::executor_ref where) {
    heed::lightning_forward(p.q, p.k, p.v, p.slopes, p.out, {.chunk = c, .executor = where});
  });
  add<problem>("gated_linear/forward", s, chunk, 2 * d * d, 2 * d, [](problem& p, index_t c, heed::executor_ref where) {
    heed::gated_linear_forward(p.q, p.k, p.v, p.g, p.out, {.chunk = c, .executor = where});
  });
  add<problem>("gated_slot/forward", s, chunk, 4 * m * d, 2 * d + 2 * m,
               [](problem& p, index_t c, heed::executor_ref where) {
                 heed::gated_slot_forward(p.q, p.k, p.v, p.slot_s, p.slot_g, p.out, {.chunk = c, .executor = where});
               });
}

void add_backwards(const shape& s, index_t chunk) {
  const double d = static_cast<double>(s.d), m = slots;
  add<gradients>("linear/backward", s, chunk, 5 * d * d, 5 * d, [](gradients& p, index_t c, heed::executor_ref where) {
    heed::linear_backward(
        p.q, p.k, p.v, {}, {}, p.dout, p.dq, p.dk, p.dv,
        {.map = heed::feature_map::identity, .normalise = false, .causal = true, .chunk = c, .executor = where});
  });
  add<gradients>(
      "lightning/backward", s, chunk, 5 * d * d, 5 * d, [](gradients& p, index_t c, heed::executor_ref where) {
        heed::lightning_backward(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv, {.chunk = c, .executor = where});
      });
  add<gradients>("gated_linear/backward", s, chunk, 5 * d * d, 5 * d,
                 [](gradients& p, index_t c, heed::executor_ref where) {
                   heed::gated_linear_backward(p.q, p.k, p.v, p.g, p.dout, p.dq, p.dk, p.dv, p.dg,
                                               {.chunk = c, .executor = where});
                 });
  add<gradients>("gated_slot/backward", s, chunk, 10 * m * d, 5 * d + 5 * m,
                 [](gradients& p, index_t c, heed::executor_ref where) {
                   heed::gated_slot_backward(p.q, p.k, p.v, p.slot_s, p.slot_g, p.scores, p.dout, p.dq, p.dk, p.dv,
                                             p.slot_ds, p.slot_dg, {.chunk = c, .executor = where});
                 });
}

/// A step that reads and writes `numbers` numbers of state a head.
template <class Run>
void add_step(const std::string& name, const shape& s, double numbers, const Run& run) {
  bench::add(bench::name_of({name, "float32", "state"}), s, [=](benchmark::State& state, int threads) {
    problem p(s);
    tensor a({s.batch, s.heads, s.d, s.d}), b({s.batch, s.heads, s.d, s.d});
    a.fill(0);
    b.fill(0);
    const double bytes = 2 * sizeof(float) * static_cast<double>(s.batch * s.heads) * numbers;
    heed::tensor<float, 1> stream({static_cast<index_t>(bytes / 2 / sizeof(float))});
    stream.fill(1);
    // One step is too short for a clock.
    constexpr int together = 32;
    bench::sample(
        state, threads, together * bytes, "gbytes",
        [&](double duration) {
          return bench::update_peak(stream.data(), stream.size() * index_t(sizeof(float)), threads, duration);
        },
        [&] {
          for (int i = 0; i < together; ++i) run(p, a, b, heed::openmp(threads));
        });
    state.counters["steps_best"] = state.counters["gbytes_best"] * 1e9 / bytes;
  });
}

}  // namespace

int main(int argc, char** argv) {
  for (const index_t d : {64, 128})
    for (const index_t chunk : {32, 64, 128}) add_forwards({1, 8, 8, 4096, d}, chunk);
  for (const index_t d : {64, 128})
    for (const index_t chunk : {32, 64}) add_backwards({1, 8, 8, 4096, d}, chunk);
  // One head, whose chunks share the threads, and lengths, which should not change the time a token takes.
  for (const index_t n : {4096, 16384, 65536, 262144, 1048576}) add_forwards({1, 1, 1, n, 64}, 64);
  const shape one{1, 32, 32, 1, 128};
  add_step("gated_linear/step", one, 128 * 128, [](problem& p, tensor& state, tensor&, heed::executor_ref where) {
    heed::gated_linear_step(p.q, p.k, p.v, p.g, p.out, state, {.executor = where});
  });
  add_step("gated_slot/step", one, 2 * slots * 128, [](problem& p, tensor& a, tensor& b, heed::executor_ref where) {
    const heed::view<float, 4> keys(a.data(), {1, 32, 128, slots}), values(b.data(), {1, 32, slots, 128});
    heed::gated_slot_step(p.q, p.k, p.v, p.slot_s, p.slot_g, p.out, keys, values, {.executor = where});
  });
  return bench::run_all(argc, argv);
}
