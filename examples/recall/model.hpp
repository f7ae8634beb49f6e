/// Token embedding, layers that add what a mixer makes of the normed rows, norm, unembedding.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mixers.hpp"
#include "task.hpp"

namespace recall {

template <class T>
class model {
 public:
  model(std::string_view mixer, const training::mixer_shape& shape, index_t layers, index_t vocabulary, unsigned seed)
      : weights_(seed),
        table_(weights_, vocabulary, shape.width),
        norm_(weights_, shape.width),
        head_(weights_, shape.width, vocabulary) {
    for (index_t i = 0; i < layers; ++i)
      layers_.push_back({training::rms_norm<T>(weights_, shape.width), training::make_mixer(mixer, weights_, shape)});
  }

  /// Reads the examples and scores the answers. Gradients of the loss are added to those of the weights when `learn`.
  training::prediction_score read(const examples& e, index_t batch, bool learn) {
    training::matrix<T> x = table_.forward(e.tokens);
    for (auto& [norm, mixer] : layers_) x += mixer->forward(norm.forward(x), batch);
    // Only rows that ask go on.
    training::matrix<T> dlogits;
    const auto score = training::cross_entropy(head_.forward(norm_.forward(x(e.questions, Eigen::all))), e.answers, dlogits);
    if (!learn) return score;
    training::matrix<T> dx = training::matrix<T>::Zero(x.rows(), x.cols());
    dx(e.questions, Eigen::all) = norm_.backward(head_.backward(dlogits));
    for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer)
      dx += layer->norm.backward(layer->mixer->backward(dx));
    table_.backward(dx);
    return score;
  }

  training::parameters<T>& weights() { return weights_; }
  index_t state_size(index_t length) const { return layers_.front().mixer->state_size(length); }

 private:
  struct layer {
    training::rms_norm<T> norm;
    std::unique_ptr<training::mixer<T>> mixer;
  };

  training::parameters<T> weights_;
  training::embedding<T> table_;
  training::rms_norm<T> norm_;
  training::linear<T> head_;
  std::vector<layer> layers_;
};

}  // namespace recall
