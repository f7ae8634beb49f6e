/// The model while it is trained: the layers of examples/training, which keep what their gradients need.
#pragma once

#include <memory>

#include "mixers.hpp"
#include "weights.hpp"

namespace slot_lm {

template <class T>
using table = training::matrix<T>;
using training::token_ids;

inline token_ids tokens_of(std::string_view text) {
  token_ids tokens;
  for (const char byte : text) tokens.push_back(static_cast<unsigned char>(byte));
  return tokens;
}

/// x + mixer(norm(x)), and of that y: y + mlp(norm(y))
template <class T>
class trainable_block {
 public:
  trainable_block(training::parameters<T>& all, const model_shape& shape)
      : norm_(all, shape.width),
        mixer_(all, {.width = shape.width,
                     .heads = shape.heads,
                     .features = shape.features,
                     .value_features = shape.features,
                     .slots = shape.slots,
                     .taps = shape.taps}),
        mlp_norm_(all, shape.width),
        mlp_(all, shape.width, shape.inner) {}

  table<T> forward(const table<T>& x, index_t batch) {
    const table<T> y = x + mixer_.forward(norm_.forward(x), batch);
    return y + mlp_.forward(mlp_norm_.forward(y));
  }

  table<T> backward(const table<T>& dout) {
    const table<T> dy = dout + mlp_norm_.backward(mlp_.backward(dout));
    return dy + norm_.backward(mixer_.backward(dy));
  }

 private:
  training::rms_norm<T> norm_;
  training::gsa_mixer<T> mixer_;
  training::rms_norm<T> mlp_norm_;
  training::swiglu<T> mlp_;
};

/// Weights are made in the order of `model_weights`.
template <class T>
class trainable_model {
 public:
  trainable_model(training::parameters<T>& all, const model_shape& shape) : table_(all, vocabulary, shape.width) {
    for (index_t i = 0; i < shape.layers; ++i) blocks_.push_back(std::make_unique<trainable_block<T>>(all, shape));
    norm_ = std::make_unique<training::rms_norm<T>>(all, shape.width);
    head_ = std::make_unique<training::linear<T>>(all, shape.width, vocabulary);
  }

  /// Logits of the byte after each of `tokens`, which are sequences of equal length one after the other.
  table<T> forward(const token_ids& tokens, index_t batch) {
    table<T> x = table_.forward(tokens);
    for (const auto& block : blocks_) x = block->forward(x, batch);
    return head_->forward(norm_->forward(std::move(x)));
  }

  void backward(const table<T>& dlogits) {
    table<T> dx = norm_->backward(head_->backward(dlogits));
    for (std::size_t i = blocks_.size(); i-- > 0;) dx = blocks_[i]->backward(dx);
    table_.backward(dx);
  }

 private:
  training::embedding<T> table_;
  std::vector<std::unique_ptr<trainable_block<T>>> blocks_;
  std::unique_ptr<training::rms_norm<T>> norm_;
  std::unique_ptr<training::linear<T>> head_;
};

}  // namespace slot_lm
