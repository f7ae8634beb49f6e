/// softmax_backward: time, GFLOP/s and the share of the multiply-add peak measured beside every sample.
///
///     bench_softmax_backward [--benchmark_filter=REGEX] [--benchmark_out=FILE --benchmark_out_format=json]
///
/// Names: softmax/backward/<dtype>/<case>/B/H/N/D/threads. FLOPs: five products, 2 per multiply-add of the visible
/// pairs, so causal counts half. `share_best` and `share_median` are over the samples of one benchmark, each divided by
/// its own peak.
#include <heed/softmax.hpp>

#include "support/samples.hpp"

#include <string>

namespace {

using bench::shape;

template <class T>
struct problem : bench::problem<T> {
  explicit problem(const shape& s)
      : bench::problem<T>(s),
        dout({s.batch, s.heads, s.n, s.d}),
        dq({s.batch, s.heads, s.n, s.d}),
        dk({s.batch, s.kv_heads, s.n, s.d}),
        dv({s.batch, s.kv_heads, s.n, s.d}),
        lse({s.batch, s.heads, s.n}) {
    bench::fill_normal(dout, 10);
  }
  heed::tensor<T, 4> dout, dq, dk, dv;
  heed::tensor<heed::accumulator_t<T>, 3> lse;
};

template <class T, class... Mods>
void backward(problem<T>& p, heed::softmax_backward_options<T> options, int threads, const Mods&... mods) {
  options.executor = heed::openmp(threads);
  heed::softmax_backward(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, options, mods...);
}

template <class T, class... Mods>
void add(const std::string& dtype, const std::string& label, const shape& s, bool causal,
         const heed::softmax_backward_options<T>& options, const Mods&... mods) {
  const double n = static_cast<double>(s.n), pairs = causal ? n * (n + 1) / 2 : n * n;
  bench::add(bench::name_of({"softmax/backward", dtype, label}), s, [=](benchmark::State& state, int threads) {
    problem<T> p(s);
    heed::softmax_forward(p.q, p.k, p.v, p.out, {.softcap = options.softcap, .lse = p.lse}, mods...);
    const double flops = 10.0 * static_cast<double>(s.batch * s.heads * s.d) * pairs;
    bench::sample<heed::accumulator_t<T>>(state, threads, flops, [&] { backward(p, options, threads, mods...); });
    state.counters["scratch_bytes"] =
        static_cast<double>(heed::softmax_backward_scratch_bytes<T>(p.q, p.k, p.v, {.executor = heed::serial()}));
  });
}

template <class T>
void add_plain(const std::string& dtype, const shape& s) {
  add<T>(dtype, "full", s, false, {});
  add<T>(dtype, "causal", s, true, {}, heed::causal{});
}

/// A score mod whose slope is given beside its value, for comparison with the one that dual numbers find.
template <class Value, class Slope>
struct by_hand {
  Value value;
  Slope slope;

  template <class Number>
  auto operator()(Number s, const auto& at) const {
    if constexpr (requires { s.partial; }) {
      const auto z = value(s.value, at);
      Number result(z);
      result.partial[0] = s.partial[0] * slope(s.value, z, at);
      return result;
    } else {
      return value(s, at);
    }
  }
};
template <class Value, class Slope>
by_hand(Value, Slope) -> by_hand<Value, Slope>;

/// The same score mod differentiated by dual numbers and by hand.
template <class Value, class Slope>
void add_mod(const std::string& name, const shape& s, const Value& value, const Slope& slope) {
  std::string duals = name, hand = name;
  add<float>("float32", duals += "_duals", s, false, {}, value);
  add<float>("float32", hand += "_by_hand", s, false, {}, by_hand{value, slope});
}

constexpr float alibi_slope[8] = {0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f, 0.0078125f, 0.00390625f};

}  // namespace

int main(int argc, char** argv) {
  const shape dense[] = {{1, 8, 8, 2048, 64}, {1, 8, 8, 2048, 128}, {1, 1, 1, 4096, 128}, {1, 8, 2, 2048, 64}};
  for (const shape& s : dense) add_plain<float>("float32", s);
  add_plain<double>("float64", {1, 8, 8, 1024, 64});

  const shape modded{1, 8, 8, 2048, 64};
  const auto one = [](auto s, auto, auto) { return decltype(s)(1); };
  add_mod("alibi", modded, [](auto s, auto at) { return s - alibi_slope[at.h] * abs(at.q - at.kv); }, one);
  add_mod("softcap", modded, heed::softcap{30}, [](auto, auto z, auto) { return 1 - z * z * (1 / 900.0f); });
  static const heed::tensor<float, 2> table({8, 2 * 128 + 1});
  add_mod("relative_bias", modded, heed::relative_bias{table}, one);

  return bench::run_all(argc, argv);
}
