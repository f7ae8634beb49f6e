/// The model while it is used: nothing is kept of the bytes it has read but a state of fixed size.
#pragma once

#include <algorithm>
#include <cmath>
#include <heed/core/tensor.hpp>
#include <heed/layers/gated_slot.hpp>
#include <string_view>
#include <utility>

#include "weights.hpp"

namespace slot_lm {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using row_vector = Eigen::RowVectorXf;
using matrix_view = heed::view<const float, 2>;

/// What the model knows of the bytes before the next one: of each layer, slots and the last steps of convolutions.
using model_state = heed::tensor<float, 2>;

class decoder {
 public:
  explicit decoder(model_weights weights) : weights_(std::move(weights)) {
    const model_shape& shape = weights_.shape;
    weight_reader next(weights_.values);
    embedding_ = next.matrix(vocabulary, shape.width);
    for (index_t i = 0; i < shape.layers; ++i) layers_.push_back(read_layer(next));
    norm_ = next.vector(shape.width);
    unembedding_ = next.matrix(shape.width, vocabulary);
    next.finish();
  }
  decoder(const decoder&) = delete;  // layers refer to the weights
  decoder& operator=(const decoder&) = delete;

  /// A row for each layer; zeros: nothing was read.
  model_state new_state() const {
    return model_state({weights_.shape.layers, heed::gated_slot_layer_state_size(layers_.front().mixer)});
  }

  /// Logits [bytes, 256] of the byte after each of `bytes`, which follow those that the state has seen: all at once, in
  /// chunks.
  matrix read(std::string_view bytes, model_state& state) const {
    return run(bytes, state, [](const auto& mixer, const matrix& x, matrix& y, auto&& slots) {
      heed::gated_slot_layer_forward(mixer, x, y, slots);
    });
  }

  /// The same for one byte: [1, 256].
  matrix step(char byte, model_state& state) const {
    return run({&byte, 1}, state, [](const auto& mixer, const matrix& x, matrix& y, auto&& slots) {
      heed::gated_slot_layer_step(mixer, x, y, slots, heed::serial());
    });
  }

 private:
  struct layer {
    heed::view<const float, 1> norm{}, mlp_norm{};
    heed::gated_slot_layer<float> mixer{};
    matrix_view gate{}, up{}, down{};
  };

  layer read_layer(weight_reader& next) const {
    const model_shape& shape = weights_.shape;
    const index_t columns = shape.heads * shape.features;
    layer l;
    l.norm = next.vector(shape.width);
    const matrix_view projections = next.matrix(shape.width, 3 * columns + shape.heads * shape.slots);
    const matrix_view taps = next.matrix(shape.taps, 3 * columns);
    l.mixer = {.heads = shape.heads,
               .q = projections.slice(1, 0, columns),
               .k = projections.slice(1, columns, 2 * columns),
               .v = projections.slice(1, 2 * columns, 3 * columns),
               .gates = projections.slice(1, 3 * columns, projections.extent(1)),
               .norm = next.vector(columns),
               .out = next.matrix(columns, shape.width),
               .q_taps = taps.slice(1, 0, columns),
               .k_taps = taps.slice(1, columns, 2 * columns),
               .v_taps = taps.slice(1, 2 * columns, 3 * columns)};
    l.mlp_norm = next.vector(shape.width);
    l.gate = next.matrix(shape.width, shape.inner);
    l.up = next.matrix(shape.width, shape.inner);
    l.down = next.matrix(shape.inner, shape.width);
    return l;
  }

  template <class Mix>
  matrix run(std::string_view bytes, model_state& state, const Mix& mix) const {
    matrix x(std::ssize(bytes), weights_.shape.width), y(x.rows(), x.cols());
    for (index_t i = 0; i < x.rows(); ++i)
      x.row(i) = heed::as_eigen(embedding_).row(static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]));
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const layer& l = layers_[i];
      mix(l.mixer, rms_norm(x, l.norm), y, state.all().slice(0, i, i + 1));
      x += y;
      const matrix in = rms_norm(x, l.mlp_norm);
      const matrix gate = in * heed::as_eigen(l.gate), up = in * heed::as_eigen(l.up);
      x.noalias() += (gate.array() * gate.array().logistic() * up.array()).matrix() * heed::as_eigen(l.down);
    }
    return rms_norm(x, norm_) * heed::as_eigen(unembedding_);
  }

  /// x / rms(x) * weight, for each row.
  static matrix rms_norm(const matrix& x, const heed::view<const float, 1>& weight) {
    constexpr float eps = 1e-5f;
    matrix y = x;
    for (index_t i = 0; i < y.rows(); ++i)
      y.row(i).array() *= heed::as_eigen(weight).transpose().array() /
                          std::sqrt(y.row(i).squaredNorm() / static_cast<float>(y.cols()) + eps);
    return y;
  }

  model_weights weights_;
  matrix_view embedding_{};
  std::vector<layer> layers_;
  heed::view<const float, 1> norm_{};
  matrix_view unembedding_{};
};

}  // namespace slot_lm
