/// Gated Slot Attention as a layer, with its projections: a composite of the operators in ops/linear and of Eigen.
#pragma once

#include <heed/core/error.hpp>
#include <heed/interop/eigen.hpp>
#include <heed/ops/linear/gated_slot_forward.hpp>
#include <heed/ops/linear/gated_slot_step.hpp>
#include <heed/ops/linear/slot_gates.hpp>

#include <cmath>
#include <type_traits>
#include <utility>

HEED_BEGIN

/// Weights and constants of a layer of H query heads, G of keys and values, and S slots. Weights act on rows,
/// y = x w, are float or double, and stay the caller's. An aggregate: name what you set, in this order.
template <class T>
struct gated_slot_layer {
  index_t heads = 1;         // H, a multiple of G
  index_t kv_heads = heads;  // G
  view<const T, 2> q{};      // [W, H D]
  view<const T, 2> k{};      // [W, G D]
  view<const T, 2> v{};      // [W, G E]
  view<const T, 2> gates{};  // [W, G S]
  view<const T, 1> norm{};   // [H E]
  view<const T, 2> out{};    // [H E, O]
  /// [taps, H D], [taps, G D], [taps, G E]: causal convolutions of the projections, row n for the token n before. All
  /// three or, by default, none.
  view<const T, 2> q_taps{};
  view<const T, 2> k_taps{};
  view<const T, 2> v_taps{};
  double tau = 8;     // of the gates: see slot_gates_forward
  double eps = 1e-5;  // of the norm
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

/// One call of a layer: how its numbers follow from its weights, and what they are checked for.
template <class T>
class gated_slot_layer_call {
  static_assert(std::is_floating_point_v<T>, "heed::gated_slot_layer: weights must be float or double");

 public:
  using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  gated_slot_layer_call(const checker& check, const gated_slot_layer<T>& layer, executor_ref executor = {})
      : check_(check), layer_(layer), executor_(executor) {
    const index_t H = layer.heads, G = layer.kv_heads;
    check.require(G >= 1, "layer.kv_heads", "at least 1", G);
    check.require(H >= 1 && H % G == 0, "layer.heads", "a multiple of layer.kv_heads, at least 1", H);
    check_weights(layer.q, "layer.q", width(), H);
    check_weights(layer.k, "layer.k", width(), G);
    check.extent(layer.k, "layer.k", 1, G * features(), "G D, as q");
    check_weights(layer.v, "layer.v", width(), G);
    check_weights(layer.gates, "layer.gates", width(), G);
    const index_t read = H * value_features();
    check.tensor(layer.norm, "layer.norm");
    check.extent(layer.norm, "layer.norm", 0, read, "H E");
    check.tensor(layer.out, "layer.out");
    check.extent(layer.out, "layer.out", 0, read, "H E");
    check_taps(layer.q_taps, "layer.q_taps", layer.q);
    check_taps(layer.k_taps, "layer.k_taps", layer.k);
    check_taps(layer.v_taps, "layer.v_taps", layer.v);
    check.require(std::isfinite(layer.tau) && layer.tau > 0, "layer.tau", "a finite number above 0", layer.tau);
    check.require(std::isfinite(layer.eps) && layer.eps >= 0, "layer.eps", "a finite number of at least 0", layer.eps);
  }

  index_t state_size() const { return slot_keys() + slot_values() + tail() * convolved(); }

  /// `read(q, k, v, s, g, out, slot_keys, slot_values)` is the operator.
  template <class Read>
  void run(const view<const T, 2>& x, const view<T, 2>& out, const view<T, 2>& state, const Read& read) const {
    check_.tensor(x, "x");
    check_.extent(x, "x", 1, width(), "W, as layer.q");
    check_.output(state, "state");
    check_.extent(state, "state", 1, state_size(), "gated_slot_layer_state_size");
    const index_t sequences = state.extent(0);
    check_.require(sequences >= 1 && x.extent(0) % (sequences >= 1 ? sequences : 1) == 0, "state.extent(0) (B)",
                   "a divisor of the rows of x", sequences);
    check_.output(out, "out");
    check_.extent(out, "out", 0, x.extent(0), "rows of x");
    check_.extent(out, "out", 1, layer_.out.extent(1), "O, as layer.out");
    check_.no_overlap(out, "out", x, "x");
    check_.no_overlap(out, "out", state, "state");
    check_.no_overlap(state, "state", x, "x");
    if (x.extent(0) == 0) return;

    const index_t H = layer_.heads, G = layer_.kv_heads, D = features(), E = value_features(), S = slots();
    const index_t rows = x.extent(0);
    index_t seen = slot_keys() + slot_values();
    const matrix q = project(x, layer_.q, layer_.q_taps, state, seen);
    const matrix k = project(x, layer_.k, layer_.k_taps, state, seen);
    const matrix v = project(x, layer_.v, layer_.v_taps, state, seen);
    const matrix logits = as_eigen(x) * as_eigen(layer_.gates);
    matrix s(rows, G * S), g(rows, G * S), y(rows, H * E);
    slot_gates_forward(as_heads(logits, G, sequences), as_heads(s, G, sequences), as_heads(g, G, sequences),
                       {.tau = layer_.tau, .executor = executor_});
    const index_t next = state.stride(0);
    read(as_heads(q, H, sequences), as_heads(k, G, sequences), as_heads(v, G, sequences),
         as_heads(std::as_const(s), G, sequences), as_heads(std::as_const(g), G, sequences), as_heads(y, H, sequences),
         view<T, 4>(state.data(), {sequences, G, D, S}, {next, D * S, S, 1}),
         view<T, 4>(state.data() + slot_keys(), {sequences, G, S, E}, {next, S * E, E, 1}));
    apply_silu(y);
    for (index_t i = 0; i < rows; ++i) {
      const T mean = y.row(i).squaredNorm() / static_cast<T>(H * E);
      y.row(i).array() *= as_eigen(layer_.norm).transpose().array() / std::sqrt(mean + static_cast<T>(layer_.eps));
    }
    as_eigen(out).noalias() = y * as_eigen(layer_.out);
  }

 private:
  index_t width() const { return layer_.q.extent(0); }
  index_t features() const { return layer_.q.extent(1) / layer_.heads; }
  index_t value_features() const { return layer_.v.extent(1) / layer_.kv_heads; }
  index_t slots() const { return layer_.gates.extent(1) / layer_.kv_heads; }
  index_t slot_keys() const { return layer_.kv_heads * features() * slots(); }
  index_t slot_values() const { return layer_.kv_heads * slots() * value_features(); }
  /// Tokens that the next one's convolutions look back at, and how many numbers of each.
  index_t tail() const { return layer_.q_taps ? layer_.q_taps.extent(0) - 1 : 0; }
  index_t convolved() const { return layer_.q.extent(1) + layer_.k.extent(1) + layer_.v.extent(1); }

  void check_weights(const view<const T, 2>& weights, const char* name, index_t rows, index_t heads) const {
    check_.tensor(weights, name);
    check_.extent(weights, name, 0, rows, "W, as layer.q");
    check_.require(weights.extent(1) >= 1 && weights.extent(1) % heads == 0, text("%s.extent(1)", name).c_str(),
                   "a multiple of the heads, at least 1", weights.extent(1));
  }

  void check_taps(const view<const T, 2>& taps, const char* name, const view<const T, 2>& weights) const {
    check_.require(static_cast<bool>(taps) == static_cast<bool>(layer_.q_taps), name,
                   "convolutions of q, k and v, or of none", "one without the others");
    if (!taps) return;
    check_.tensor(taps, name);
    check_.require(taps.extent(0) >= 1, text("%s.extent(0)", name).c_str(), "at least 1", taps.extent(0));
    check_.extent(taps, name, 0, layer_.q_taps.extent(0), "taps, as layer.q_taps");
    check_.extent(taps, name, 1, weights.extent(1), "columns that are convolved");
  }

  /// silu(convolution(x weights)). The tokens that the convolution looks back at are kept from `seen` on in each row of
  /// the state, oldest first; `seen` moves past them.
  matrix project(const view<const T, 2>& x, const view<const T, 2>& weights, const view<const T, 2>& taps,
                 const view<T, 2>& state, index_t& seen) const {
    matrix y = as_eigen(x) * as_eigen(weights);
    if (taps) {
      const index_t tokens = y.rows() / state.extent(0), columns = y.cols();
      matrix all(tail() + tokens, columns);
      for (index_t b = 0; b < state.extent(0); ++b) {
        Eigen::Map<matrix> kept(&state(b, 0) + seen, tail(), columns);
        auto here = y.middleRows(b * tokens, tokens);
        all.topRows(tail()) = kept;
        all.bottomRows(tokens) = here;
        here.setZero();
        for (index_t n = 0; n < taps.extent(0); ++n)
          here += all.middleRows(tail() - n, tokens) * as_eigen(taps).row(n).asDiagonal();
        kept = all.bottomRows(tail());
      }
      seen += tail() * columns;
    }
    apply_silu(y);
    return y;
  }

  static void apply_silu(matrix& x) { x.array() *= x.array().logistic(); }

  const checker& check_;
  const gated_slot_layer<T>& layer_;
  executor_ref executor_;
};

}  // namespace detail

/// Numbers of the state that a layer carries along one sequence: S (D + E) of each of the G heads, and taps - 1 tokens
/// of what is convolved.
/// Throws heed::invalid_argument: weights whose extents do not fit.
template <class T>
index_t gated_slot_layer_state_size(const gated_slot_layer<T>& layer) {
  const detail::checker check("gated_slot_layer_state_size");
  return detail::gated_slot_layer_call<T>(check, layer).state_size();
}

/// The layer over N tokens of each sequence, as they follow those that the state has seen:
///     q = silu(x Wq)   k = silu(x Wk)   v = silu(x Wv)   (s, g) = slot_gates(x Wgates, tau)
///     out = rms_norm(silu(gated_slot(q, k, v, s, g))) Wout
/// with x Wq, x Wk and x Wv convolved first if the layer has taps, a scale of 1, and one norm for all heads together.
///
///     heed::tensor<float, 2> state({B, heed::gated_slot_layer_state_size(layer)});    // zeros: nothing was seen
///     heed::gated_slot_layer_forward(layer, x, out, state);
///
/// layer  see gated_slot_layer; float or double
/// x      [B N, W]   tokens in rows, sequence by sequence
/// out    [B N, O]   output; must not overlap x or the state
/// state  [B, gated_slot_layer_state_size(layer)]  a row for each sequence, zeros before its first token; updated in
///                   place. Plain numbers: copy them to fork a sequence, store them to go on later
/// executor          of the operators; Eigen threads its products as the program lets it
///
/// Legal edges: N = 0. Any N after any other; what a token becomes depends on it within rounding only.
/// Cost: the projections, O(B N W (H (D + E) + G (D + E + S))), by Eigen, and gated_slot_forward. Allocates what passes
/// between them, some [B N, H (D + E) + G (D + E + 3 S)] numbers.
/// Deterministic: bit-equal for equal N and number of threads.
/// Throws heed::invalid_argument before any write: extents that do not fit, heads that do not divide columns, taps of
/// some projections only, null data, strided last axes, overlap, tau or eps not finite or below 0.
/// Paper: Zhang et al., Gated Slot Attention for Efficient Linear-Time Sequence Modeling, 2024, section 3.
template <class T, readable<2> X, writable<2> Out, writable<2> State>
void gated_slot_layer_forward(const gated_slot_layer<T>& layer, const X& x, Out&& out, State&& state,
                              executor_ref executor = {}) {
  const detail::checker check("gated_slot_layer_forward");
  detail::gated_slot_layer_call<T>(check, layer, executor)
      .run(view_traits<const X>::make(x), view_traits<std::remove_reference_t<Out>>::make(out),
           view_traits<std::remove_reference_t<State>>::make(state),
           [&](auto q, auto k, auto v, auto s, auto g, auto y, auto slot_keys, auto slot_values) {
             gated_slot_forward(q, k, v, s, g, y,
                                {.scale = 1,
                                 .initial_keys = slot_keys,
                                 .initial_values = slot_values,
                                 .final_keys = slot_keys,
                                 .final_values = slot_values,
                                 .executor = executor});
           });
}

/// gated_slot_layer_forward for the newest token of each sequence, or a few, by gated_slot_step.
template <class T, readable<2> X, writable<2> Out, writable<2> State>
void gated_slot_layer_step(const gated_slot_layer<T>& layer, const X& x, Out&& out, State&& state,
                           executor_ref executor = {}) {
  const detail::checker check("gated_slot_layer_step");
  detail::gated_slot_layer_call<T>(check, layer, executor)
      .run(view_traits<const X>::make(x), view_traits<std::remove_reference_t<Out>>::make(out),
           view_traits<std::remove_reference_t<State>>::make(state),
           [&](auto q, auto k, auto v, auto s, auto g, auto y, auto slot_keys, auto slot_values) {
             gated_slot_step(q, k, v, s, g, y, slot_keys, slot_values, {.scale = 1, .executor = executor});
           });
}

HEED_ARCH_END
