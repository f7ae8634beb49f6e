#include "support/catch.hpp"

#if __has_include(<Eigen/Core>)

#include <heed/core/tensor.hpp>
#include <heed/layers/gated_slot.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/refusal.hpp"

namespace {

using Catch::Approx;
using heed::index_t;
using heed::tensor;
using heed::view;

struct layer_shape {
  index_t sequences, tokens, width, heads, kv_heads, features, value_features, slots, out, taps;
  double tau = 8;
};

constexpr layer_shape shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 0},  {2, 9, 5, 2, 2, 3, 4, 5, 6, 0, 2}, {3, 70, 7, 4, 2, 5, 3, 6, 7, 4},
    {1, 5, 16, 3, 1, 4, 8, 2, 3, 1}, {2, 2, 6, 2, 1, 16, 17, 33, 9, 5},
};

/// Weights and tokens, all of which float holds exactly.
template <class T>
struct problem {
  explicit problem(const layer_shape& a) : shape(a), random(1) {
    q = numbers({a.width, a.heads * a.features}, a.width);
    k = numbers({a.width, a.kv_heads * a.features}, a.width);
    v = numbers({a.width, a.kv_heads * a.value_features}, a.width);
    gates = numbers({a.width, a.kv_heads * a.slots}, a.width);
    out = numbers({a.heads * a.value_features, a.out}, a.heads * a.value_features);
    q_taps = numbers({a.taps, a.heads * a.features}, a.taps);
    k_taps = numbers({a.taps, a.kv_heads * a.features}, a.taps);
    v_taps = numbers({a.taps, a.kv_heads * a.value_features}, a.taps);
    norm = tensor<T, 1>({a.heads * a.value_features});
    for (T& each : norm) each = static_cast<T>(0.25 * static_cast<double>(support::draw(random, 1, 8)));
    x = numbers({a.sequences * a.tokens, a.width}, 1);
    layer = {
        .heads = a.heads, .kv_heads = a.kv_heads, .q = q, .k = k, .v = v, .gates = gates, .norm = norm, .out = out};
    if (a.taps > 0) {
      layer.q_taps = q_taps;
      layer.k_taps = k_taps;
      layer.v_taps = v_taps;
    }
    layer.tau = a.tau;
  }

  tensor<T, 2> numbers(const index_t (&extents)[2], index_t terms) {
    tensor<T, 2> t =
        support::normal_tensor<T>(extents, random, 1 / std::sqrt(static_cast<double>(std::max<index_t>(1, terms))));
    for (T& value : t) value = static_cast<T>(static_cast<float>(value));
    return t;
  }

  tensor<T, 2> new_state() const { return tensor<T, 2>({shape.sequences, heed::gated_slot_layer_state_size(layer)}); }

  layer_shape shape;
  support::random_engine random;
  tensor<T, 2> q, k, v, gates, out, q_taps, k_taps, v_taps, x;
  tensor<T, 1> norm;
  heed::gated_slot_layer<T> layer;
};

double silu(double x) { return x / (1 + std::exp(-x)); }

/// The layer in double from its definition, token by token, with nothing before the first.
template <class T>
tensor<double, 2> expected(const problem<T>& p) {
  const layer_shape& a = p.shape;
  const index_t H = a.heads, G = a.kv_heads, D = a.features, E = a.value_features, S = a.slots;
  tensor<double, 2> result({a.sequences * a.tokens, a.out});
  for (index_t b = 0; b < a.sequences; ++b) {
    std::vector<double> keys(static_cast<std::size_t>(G * D * S)), values(static_cast<std::size_t>(G * S * E));
    const auto key = [&](index_t g, index_t d, index_t m) -> double& { return keys[std::size_t((g * D + d) * S + m)]; };
    const auto value = [&](index_t g, index_t m, index_t e) -> double& {
      return values[std::size_t((g * S + m) * E + e)];
    };
    for (index_t t = 0; t < a.tokens; ++t) {
      const auto product = [&](const tensor<T, 2>& weights, index_t column, index_t back) {
        double sum = 0;
        for (index_t i = 0; i < a.width; ++i)
          sum += double(p.x(b * a.tokens + t - back, i)) * double(weights(i, column));
        return sum;
      };
      const auto projected = [&](const tensor<T, 2>& weights, const tensor<T, 2>& taps, index_t column) {
        if (a.taps == 0) return silu(product(weights, column, 0));
        double sum = 0;
        for (index_t n = 0; n < std::min(a.taps, t + 1); ++n)
          sum += double(taps(n, column)) * product(weights, column, n);
        return silu(sum);
      };
      for (index_t g = 0; g < G; ++g)
        for (index_t m = 0; m < S; ++m) {
          const double kept = std::pow(1 / (1 + std::exp(-product(p.gates, g * S + m, 0))), 1 / a.tau);
          for (index_t d = 0; d < D; ++d)
            key(g, d, m) = kept * key(g, d, m) + (1 - kept) * projected(p.k, p.k_taps, g * D + d);
          for (index_t e = 0; e < E; ++e)
            value(g, m, e) = kept * value(g, m, e) + (1 - kept) * projected(p.v, p.v_taps, g * E + e);
        }

      std::vector<double> y(static_cast<std::size_t>(H * E));
      for (index_t h = 0; h < H; ++h) {
        const index_t g = h / (H / G);
        std::vector<double> weights(static_cast<std::size_t>(S));
        double sum = 0;
        for (index_t m = 0; m < S; ++m) {
          double score = 0;
          for (index_t d = 0; d < D; ++d) score += key(g, d, m) * projected(p.q, p.q_taps, h * D + d);
          sum += weights[std::size_t(m)] = std::exp(score);
        }
        for (index_t e = 0; e < E; ++e) {
          double read = 0;
          for (index_t m = 0; m < S; ++m) read += weights[std::size_t(m)] / sum * value(g, m, e);
          y[std::size_t(h * E + e)] = silu(read);
        }
      }
      double squares = 0;
      for (const double each : y) squares += each * each;
      const double rms = std::sqrt(squares / static_cast<double>(H * E) + 1e-5);
      for (index_t o = 0; o < a.out; ++o)
        for (index_t i = 0; i < H * E; ++i)
          result(b * a.tokens + t, o) += y[std::size_t(i)] / rms * double(p.norm(i)) * double(p.out(i, o));
    }
  }
  return result;
}

/// Rows of tokens [first, first + count) of every sequence, sequence by sequence.
template <class T>
tensor<T, 2> part_of(const tensor<T, 2>& rows, index_t sequences, index_t first, index_t count) {
  const index_t tokens = rows.extent(0) / sequences;
  tensor<T, 2> part({sequences * count, rows.extent(1)});
  for (index_t b = 0; b < sequences; ++b)
    for (index_t t = 0; t < count; ++t)
      for (index_t i = 0; i < rows.extent(1); ++i) part(b * count + t, i) = rows(b * tokens + first + t, i);
  return part;
}

/// The largest error, in parts of the largest number.
template <class T>
double error_of(const tensor<T, 2>& got, const tensor<double, 2>& wanted) {
  double error = 0, most = 0;
  REQUIRE(got.size() == wanted.size());
  for (index_t i = 0; i < got.size(); ++i) {
    most = std::max(most, std::abs(wanted.data()[i]));
    error = support::worse(error, std::abs(double(got.data()[i]) - wanted.data()[i]));
  }
  return error / most;
}

template <class T>
constexpr double tolerance = 64 * static_cast<double>(std::numeric_limits<T>::epsilon());

}  // namespace

TEMPLATE_TEST_CASE("gated_slot_layer: as its definition, whole, in parts and step by step", "", float, double) {
  using T = TestType;
  for (const layer_shape& a : shapes) {
    CAPTURE(a.tokens, a.width, a.heads, a.kv_heads, a.slots, a.taps);
    const problem<T> p(a);
    const tensor<double, 2> wanted = expected(p);

    // Both end in the same state, up to rounding; a few more tokens would show where they do not.
    for (const index_t first : {a.tokens, a.tokens / 2, index_t(0), std::min<index_t>(1, a.tokens)}) {
      CAPTURE(first);
      tensor<T, 2> state = p.new_state();
      for (const bool begins : {true, false}) {
        const index_t from = begins ? 0 : first, count = begins ? first : a.tokens - first;
        auto got = tensor<T, 2>::full({a.sequences * count, a.out}, support::quiet_nan<T>);
        heed::gated_slot_layer_forward(p.layer, part_of(p.x, a.sequences, from, count), got, state);
        if (count > 0) CHECK(error_of(got, part_of(wanted, a.sequences, from, count)) <= tolerance<T>);
      }
    }

    tensor<T, 2> state = p.new_state();
    for (index_t t = 0; t < a.tokens; ++t) {
      auto got = tensor<T, 2>::full({a.sequences, a.out}, support::quiet_nan<T>);
      heed::gated_slot_layer_step(p.layer, part_of(p.x, a.sequences, t, 1), got, state);
      REQUIRE(error_of(got, part_of(wanted, a.sequences, t, 1)) <= tolerance<T>);
    }
  }
}

TEST_CASE("gated_slot_layer: weights side by side in one matrix, outputs in a wider one") {
  const problem<float> p(shapes[2]);
  const index_t q = p.q.extent(1), k = p.k.extent(1), v = p.v.extent(1);
  tensor<float, 2> together({p.shape.width, q + k + v});
  for (index_t i = 0; i < p.shape.width; ++i)
    for (index_t j = 0; j < q + k + v; ++j)
      together(i, j) = j < q ? p.q(i, j) : j < q + k ? p.k(i, j - q) : p.v(i, j - q - k);
  heed::gated_slot_layer<float> layer = p.layer;
  layer.q = together.all().slice(1, 0, q);
  layer.k = together.all().slice(1, q, q + k);
  layer.v = together.all().slice(1, q + k, q + k + v);

  const index_t rows = p.x.extent(0), columns = p.shape.out;
  auto wide = tensor<float, 2>::full({rows, columns + 3}, 7);
  tensor<float, 2> plain({rows, columns}), state = p.new_state(), again = p.new_state();
  heed::gated_slot_layer_forward(p.layer, p.x, plain, state);
  heed::gated_slot_layer_forward(layer, p.x, wide.all().slice(1, 2, 2 + columns), again);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns + 3; ++j)
      CHECK(wide(i, j) == Approx(j < 2 || j == columns + 2 ? 7 : plain(i, j - 2)).margin(1e-5));
}

TEST_CASE("gated_slot_layer: refusals, and nothing is written") {
  const problem<float> p(shapes[2]);
  const index_t rows = p.x.extent(0), size = heed::gated_slot_layer_state_size(p.layer);
  heed::gated_slot_layer<float> layer = p.layer;
  view<const float, 2> x = p.x;
  auto out_memory = tensor<float, 2>::full({rows, p.shape.out}, 7);
  auto state_memory = tensor<float, 2>::full({p.shape.sequences, size}, 7);
  view<float, 2> out = out_memory, state = state_memory;
  const auto refused = [&](const std::vector<std::string>& parts) {
    support::check_refusal("gated_slot_layer_forward", parts,
                           [&] { heed::gated_slot_layer_forward(layer, x, out, state); });
    support::check_refusal("gated_slot_layer_step", parts, [&] { heed::gated_slot_layer_step(layer, x, out, state); });
    for (const tensor<float, 2>* memory : {&out_memory, &state_memory})
      CHECK(std::all_of(memory->begin(), memory->end(), [](float value) { return value == 7; }));
    layer = p.layer;
    x = p.x;
    out = out_memory;
    state = state_memory;
  };

  layer.heads = 3;
  refused({"layer.heads", "multiple of layer.kv_heads"});
  layer.kv_heads = 0;
  refused({"layer.kv_heads", "at least 1"});
  layer.q = layer.q.slice(1, 1, layer.q.extent(1));
  refused({"layer.q.extent(1)", "multiple of the heads"});
  layer.k = layer.k.slice(0, 1, layer.k.extent(0));
  refused({"layer.k.extent(0)", "W"});
  layer.k = layer.k.slice(1, 0, 2);
  refused({"layer.k.extent(1)", "G D"});
  layer.gates = layer.gates.slice(1, 0, 0);
  refused({"layer.gates.extent(1)", "at least 1"});
  layer.norm = layer.norm.slice(0, 1, layer.norm.extent(0));
  refused({"layer.norm.extent(0)", "H E"});
  layer.out = layer.out.slice(0, 1, layer.out.extent(0));
  refused({"layer.out.extent(0)", "H E"});
  layer.k_taps = {};
  refused({"layer.k_taps", "or of none"});
  layer.v_taps = layer.v_taps.slice(0, 1, layer.v_taps.extent(0));
  refused({"layer.v_taps.extent(0)", "as layer.q_taps"});
  layer.tau = 0;
  refused({"layer.tau", "above 0"});
  layer.eps = -1;
  refused({"layer.eps"});
  x = x.slice(1, 1, x.extent(1));
  refused({"x.extent(1)", "W"});
  out = out.slice(0, 1, rows);
  refused({"out.extent(0)", "rows of x"});
  out = out.slice(1, 1, out.extent(1));
  refused({"out.extent(1)", "as layer.out"});
  state = state.slice(1, 1, size);
  refused({"state.extent(1)", "gated_slot_layer_state_size"});
  state = state.slice(0, 0, 0);
  refused({"state.extent(0)", "divisor"});
  out = view<float, 2>(state_memory.data(), {rows, p.shape.out});
  refused({"out", "no overlap with state"});
}

#endif
