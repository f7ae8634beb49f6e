/// Embeddings of tokens and places, two layers that add what they make of the normed rows, norm, scores of values. The
/// first layer, a convolution, brings a key to its value; the second one, a mixer, has to remember.
#pragma once

#include <memory>
#include <string_view>

#include "mixers.hpp"
#include "task.hpp"

namespace recall {

struct model_shape {
  index_t longest = 0;  // tokens in a sequence
  index_t taps = 4;     // of the convolution
  vocabulary words{};
  training::mixer_shape mixer{};
};

template <class T>
class model {
 public:
  model(std::string_view mixer, const model_shape& shape, unsigned seed)
      : weights_(seed),
        tokens_(weights_, shape.words.size(), shape.mixer.width),
        places_(weights_, shape.longest, shape.mixer.width),
        convolution_norm_(weights_, shape.mixer.width),
        convolution_(weights_, shape.mixer.width, shape.taps, training::first_taps::random),
        mixer_norm_(weights_, shape.mixer.width),
        mixer_(training::make_mixer(mixer, weights_, shape.mixer)),
        norm_(weights_, shape.mixer.width),
        head_(weights_, shape.mixer.width, shape.words.values) {}

  /// Answers the questions. Where asked to learn, the gradients of the loss are added to those of the weights.
  training::prediction_score answer(const examples& e, bool learn) {
    matrix x = tokens_.forward(e.tokens) + places_.forward(e.places);
    x += convolution_.forward(convolution_norm_.forward(x), e.count);
    x += mixer_->forward(mixer_norm_.forward(x), e.count);
    // Only rows that ask go on.
    matrix dlogits;
    const auto score =
        training::cross_entropy(head_.forward(norm_.forward(x(e.questions, Eigen::all))), e.answers, dlogits);
    if (!learn) return score;

    matrix dx = matrix::Zero(x.rows(), x.cols());
    dx(e.questions, Eigen::all) = norm_.backward(head_.backward(dlogits));
    dx += mixer_norm_.backward(mixer_->backward(dx));
    dx += convolution_norm_.backward(convolution_.backward(dx));
    tokens_.backward(dx);
    places_.backward(dx);
    return score;
  }

  training::parameters<T>& weights() { return weights_; }
  /// Floats that the mixer keeps.
  index_t state_size(index_t length) const { return mixer_->state_size(length); }

 private:
  using matrix = training::matrix<T>;

  training::parameters<T> weights_;
  training::embedding<T> tokens_, places_;
  training::rms_norm<T> convolution_norm_;
  training::short_convolution<T> convolution_;
  training::rms_norm<T> mixer_norm_;
  std::unique_ptr<training::mixer<T>> mixer_;
  training::rms_norm<T> norm_;
  training::linear<T> head_;
};

}  // namespace recall
