/// A causal decoder: token embedding, layers of attention and a gated MLP with RMS norms before them, unembedding.
#pragma once

#include <cmath>
#include <heed/interop/eigen.hpp>
#include <heed/rotary.hpp>
#include <vector>

#include "alphabet.hpp"

namespace generate {

using heed::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using row_vector = Eigen::RowVectorXf;

/// Weights act on rows: out = in * weight.
struct layer {
  index_t heads = 1, kv_heads = 1;           // H, G
  index_t features = 1, value_features = 1;  // D, E
  index_t rotary = 0;                        // features that turn with the position; 0: none
  std::vector<float> slopes{};               // [H], ALiBi's

  row_vector attention_norm{}, mlp_norm{};  // [hidden]
  matrix q{}, k{}, v{}, o{};                // [hidden, H D], [hidden, G D], [hidden, G E], [H E, hidden]
  matrix gate{}, up{}, down{};              // [hidden, inner] twice, [inner, hidden]
};

/// x / rms(x) * weight, for each row.
inline matrix rms_norm(const matrix& x, const row_vector& weight) {
  matrix y = x;
  for (index_t i = 0; i < y.rows(); ++i)
    y.row(i).array() *= weight.array() / std::sqrt(y.row(i).squaredNorm() / static_cast<float>(y.cols()));
  return y;
}

/// x sigmoid(x)
inline matrix silu(const matrix& x) { return x.array() / (1 + (-x.array()).exp()); }

struct decoder {
  matrix embedding;  // [vocabulary, hidden]
  std::vector<layer> layers;
  row_vector norm;     // [hidden]
  matrix unembedding;  // [hidden, vocabulary]

  /// What becomes of tokens at their positions, a row each: [T, hidden]. Tokens meet in attend(number of the layer, q, k,
  /// v, out) alone, with k of and before their own position; who keeps keys and values, and how, is up to it.
  template <class Attend>
  matrix hidden(const token_ids& tokens, const std::vector<std::int32_t>& positions, const Attend& attend) const {
    const auto count = static_cast<index_t>(tokens.size());
    matrix x(count, embedding.cols());
    for (index_t i = 0; i < count; ++i) x.row(i) = embedding.row(tokens[i]);
    for (std::size_t number = 0; number < layers.size(); ++number) {
      const layer& l = layers[number];
      const matrix in = rms_norm(x, l.attention_norm);
      matrix q = in * l.q, k = in * l.k, out(count, l.heads * l.value_features);
      const matrix v = in * l.v;
      if (l.rotary > 0) {
        heed::rotary_forward(heed::as_heads(q, l.heads), positions, heed::as_heads(q, l.heads), {.features = l.rotary});
        heed::rotary_forward(heed::as_heads(k, l.kv_heads), positions, heed::as_heads(k, l.kv_heads),
                             {.features = l.rotary});
      }
      attend(number, q, k, v, out);
      x.noalias() += out * l.o;
      const matrix inner = rms_norm(x, l.mlp_norm);
      x.noalias() += (silu(inner * l.gate).array() * (inner * l.up).array()).matrix() * l.down;
    }
    return x;
  }

  /// [T, vocabulary] of rows of hidden().
  matrix logits(const matrix& x) const { return rms_norm(x, norm) * unembedding; }
};

}  // namespace generate
