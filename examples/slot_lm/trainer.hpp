/// Training: windows of a text drawn at random, AdamW, the model's copies side by side.
#pragma once

#include <numbers>
#include <random>

#include "trainable.hpp"

namespace slot_lm {

struct training_settings {
  index_t steps = 5000;
  index_t batch = 4;     // windows a step
  index_t length = 256;  // bytes of a window
  double rate = 4e-3;
  unsigned seed = 1;
};

/// Each window of a step has a copy of the model to itself, so that threads need not meet within one; their gradients
/// are added in the order of the windows, whoever is done first. For that the result does not depend on the number of
/// threads.
class trainer {
 public:
  trainer(const model_shape& shape, const training_settings& settings)
      : settings_(settings), weights_(settings.seed), random_(settings.seed) {
    trainable_model<float>(weights_, shape);
    for (index_t b = 0; b < settings.batch; ++b) copies_.push_back(std::make_unique<copy>(shape));
  }

  index_t steps_done() const { return step_; }
  std::span<const float> weights() { return weights_.values(); }

  /// Returns the loss in bits a byte.
  double step(std::string_view text) {
    for (const auto& c : copies_) {
      const auto last = text.size() - static_cast<std::size_t>(settings_.length) - 1;
      c->window = text.substr(std::uniform_int_distribution<std::size_t>(0, last)(random_));
    }
#pragma omp parallel for schedule(dynamic, 1)
    for (index_t b = 0; b < settings_.batch; ++b) learn(*copies_[static_cast<std::size_t>(b)]);
    double loss = 0;
    for (const auto& c : copies_) {
      loss += c->loss / static_cast<double>(settings_.batch);
      weights_.add_gradients(c->weights);
    }
    const index_t warmup = settings_.steps / 40;
    weights_.step({.rate = training::cosine_rate(step_++, settings_.steps, warmup, settings_.rate)});
    return loss / std::numbers::ln2;
  }

 private:
  struct copy {
    explicit copy(const model_shape& shape) : model(weights, shape) {}
    training::parameters<float> weights{0};
    trainable_model<float> model;
    std::string_view window;
    double loss = 0;
  };

  void learn(copy& c) {
    std::copy(weights_.values().begin(), weights_.values().end(), c.weights.values().begin());
    c.weights.clear_gradients();
    const auto length = static_cast<std::size_t>(settings_.length);
    table<float> dlogits;
    const table<float> logits = c.model.forward(tokens_of(c.window.substr(0, length)), 1);
    c.loss = training::cross_entropy(logits, tokens_of(c.window.substr(1, length)), dlogits).loss;
    dlogits /= static_cast<float>(settings_.batch);
    c.model.backward(dlogits);
  }

  training_settings settings_;
  training::parameters<float> weights_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<copy>> copies_;
  index_t step_ = 0;
};

}  // namespace slot_lm
