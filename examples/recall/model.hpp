/// Embeddings of tokens and positions, layers that add what a mixer makes of the normed rows, norm, scores of values.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mixers.hpp"
#include "task.hpp"

namespace recall {

struct model_shape {
  index_t layers = 2;
  index_t longest = 0;  // tokens in a sequence
  vocabulary words{};
  training::mixer_shape mixer{};
};

template <class T>
class model {
 public:
  model(std::string_view mixer, const model_shape& shape, unsigned seed)
      : weights_(seed),
        tokens_(weights_, shape.words.size(), shape.mixer.width),
        positions_(weights_, shape.longest, shape.mixer.width),
        norm_(weights_, shape.mixer.width),
        head_(weights_, shape.mixer.width, shape.words.values) {
    for (index_t i = 0; i < shape.layers; ++i)
      layers_.push_back(
          {training::rms_norm<T>(weights_, shape.mixer.width), training::make_mixer(mixer, weights_, shape.mixer)});
  }

  /// Answers the questions. Where asked to learn, the gradients of the loss are added to those of the weights.
  training::prediction_score answer(const examples& e, bool learn) {
    token_ids at(e.tokens.size());
    for (std::size_t i = 0; i < at.size(); ++i) at[i] = static_cast<token>(i % (at.size() / std::size_t(e.count)));
    matrix x = tokens_.forward(e.tokens) + positions_.forward(at);
    for (layer& each : layers_) x += each.mixer->forward(each.norm.forward(x), e.count);
    // Only rows that ask go on.
    matrix dlogits;
    const auto score =
        training::cross_entropy(head_.forward(norm_.forward(x(e.questions, Eigen::all))), e.answers, dlogits);
    if (!learn) return score;

    matrix dx = matrix::Zero(x.rows(), x.cols());
    dx(e.questions, Eigen::all) = norm_.backward(head_.backward(dlogits));
    for (auto each = layers_.rbegin(); each != layers_.rend(); ++each)
      dx += each->norm.backward(each->mixer->backward(dx));
    tokens_.backward(dx);
    positions_.backward(dx);
    return score;
  }

  training::parameters<T>& weights() { return weights_; }
  /// Floats a layer.
  index_t state_size(index_t length) const { return layers_.front().mixer->state_size(length); }

 private:
  using matrix = training::matrix<T>;
  struct layer {
    training::rms_norm<T> norm;
    std::unique_ptr<training::mixer<T>> mixer;
  };

  training::parameters<T> weights_;
  training::embedding<T> tokens_, positions_;
  training::rms_norm<T> norm_;
  training::linear<T> head_;
  std::vector<layer> layers_;
};

}  // namespace recall
