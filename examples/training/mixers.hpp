/// Mixers of tokens: causal layers that differ in what a query reads, softmax attention, linear attention, gated linear
/// attention (GLA) or gated slot attention (GSA). All have the same frame,
///
///     y = rms_norm(mix(map(convolution([q k v])), rest)) Wout          [q k v rest] = x Win
///
/// where map is silu for GLA and GSA, and leaves the others as they are, and the same use as layers.hpp has it:
/// forward(x, batch) and backward(dy). What the published layers do is the default of mixer_shape.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/mod/masks.hpp>
#include <heed/ops/linear/gated_backward.hpp>
#include <heed/ops/linear/gated_forward.hpp>
#include <heed/ops/linear/gated_slot_backward.hpp>
#include <heed/ops/linear/gated_slot_forward.hpp>
#include <heed/ops/linear/linear_backward.hpp>
#include <heed/ops/linear/linear_forward.hpp>
#include <heed/ops/linear/slot_gates.hpp>
#include <heed/ops/softmax/backward.hpp>
#include <heed/ops/softmax/forward.hpp>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "layers.hpp"

namespace training {

struct mixer_shape {
  index_t width = 64;                          // of x and y
  index_t heads = 1;                           // H
  index_t features = 64, value_features = 64;  // D, E
  index_t slots = 32;                          // S, of GSA alone
  index_t taps = 4;                            // of the convolution
  bool norm_keys = false;                      // queries and keys go through an RMS norm a head, in place of map
  heed::feature_map features_of_keys = heed::feature_map::elu_plus_one;  // of linear attention alone
  double gate_damping = 8, gate_gain = 1;                                // of GSA alone: tau, factor of the logits
};

template <class T>
class mixer {
 public:
  virtual ~mixer() = default;

  matrix<T> forward(matrix<T> x, index_t batch) {
    batch_ = batch;
    const matrix<T> projected = in_.forward(std::move(x));
    convolved_ = convolution_.forward(projected.leftCols(qkv_width_), batch);
    qkv_ = map_ == feature_map::silu ? silu(convolved_) : convolved_;
    if (q_norm_) {
      q_columns(qkv_) = of_heads(q_columns(convolved_), [&](auto&& q) { return q_norm_->forward(q); });
      k_columns(qkv_) = of_heads(k_columns(convolved_), [&](auto&& k) { return k_norm_->forward(k); });
    }
    rest_ = projected.rightCols(rest_width_);
    mixed_.resize(qkv_.rows(), shape_.heads * shape_.value_features);
    return out_.forward(norm_.forward(mix()));
  }

  matrix<T> backward(const matrix<T>& dy) {
    dqkv_.resize(dy.rows(), qkv_width_);
    drest_.resize(dy.rows(), rest_width_);
    mix_backward(norm_.backward(out_.backward(dy)));
    matrix<T> dconvolved = map_ == feature_map::silu ? silu_backward(convolved_, dqkv_) : dqkv_;
    if (q_norm_) {
      q_columns(dconvolved) = of_heads(q_columns(dqkv_), [&](auto&& dq) { return q_norm_->backward(dq); });
      k_columns(dconvolved) = of_heads(k_columns(dqkv_), [&](auto&& dk) { return k_norm_->backward(dk); });
    }
    matrix<T> dprojected(dy.rows(), qkv_width_ + rest_width_);
    dprojected << convolution_.backward(dconvolved), drest_;
    return in_.backward(dprojected);
  }

  /// Floats that the next token needs of the `length` before it, in all heads.
  virtual index_t state_size(index_t length) const = 0;

 protected:
  enum class feature_map { identity, silu };

  mixer(parameters<T>& all, const mixer_shape& shape, index_t rest_of_head, feature_map map)
      : shape_(shape),
        map_(map),
        qkv_width_(shape.heads * (2 * shape.features + shape.value_features)),
        rest_width_(shape.heads * rest_of_head),
        in_(all, shape.width, qkv_width_ + rest_width_),
        convolution_(all, qkv_width_, shape.taps),
        norm_(all, shape.heads * shape.value_features),
        out_(all, shape.heads * shape.value_features, shape.width) {
    if (!shape.norm_keys) return;
    q_norm_.emplace(all, shape.features);
    k_norm_.emplace(all, shape.features);
  }

  /// Of qkv_ and rest_.
  virtual matrix<T> mix() = 0;
  /// Fills dqkv_ and drest_.
  virtual void mix_backward(const matrix<T>& dy) = 0;

  /// [B,H,N,columns / H] of a matrix of tokens.
  template <class M>
  auto heads(M&& tokens) const {
    return heed::as_heads(std::forward<M>(tokens), shape_.heads, batch_);
  }
  template <class M>
  auto q_of(M& qkv) const {
    return heads(q_columns(qkv));
  }
  template <class M>
  auto k_of(M& qkv) const {
    return heads(k_columns(qkv));
  }
  template <class M>
  auto v_of(M& qkv) const {
    return heads(qkv.rightCols(shape_.heads * shape_.value_features));
  }

  mixer_shape shape_;
  index_t batch_ = 1;
  matrix<T> qkv_, rest_, mixed_, dqkv_, drest_;

 private:
  template <class M>
  auto q_columns(M& qkv) const {
    return qkv.leftCols(shape_.heads * shape_.features);
  }
  template <class M>
  auto k_columns(M& qkv) const {
    return qkv.middleCols(shape_.heads * shape_.features, shape_.heads * shape_.features);
  }
  /// f of a matrix that has a row for each head of a token, in the columns that the heads came from.
  template <class F>
  matrix<T> of_heads(matrix<T> columns, const F& f) const {
    matrix<T> rows = f(matrix_map<T>(columns.data(), columns.rows() * shape_.heads, shape_.features));
    return matrix_map<T>(rows.data(), columns.rows(), columns.cols());
  }

  feature_map map_;
  index_t qkv_width_, rest_width_;
  linear<T> in_;
  short_convolution<T> convolution_;
  rms_norm<T> norm_;
  linear<T> out_;
  std::optional<rms_norm<T>> q_norm_, k_norm_;
  matrix<T> convolved_;
};

/// Softmax attention. Its state are the keys and values.
template <class T>
class softmax_mixer : public mixer<T> {
 public:
  softmax_mixer(parameters<T>& all, const mixer_shape& shape)
      : mixer<T>(all, shape, 0, mixer<T>::feature_map::identity) {}

  index_t state_size(index_t length) const override {
    return length * this->shape_.heads * (this->shape_.features + this->shape_.value_features);
  }

 private:
  matrix<T> mix() override {
    const auto& qkv = this->qkv_;
    lse_ = heed::tensor<T, 3>({this->batch_, this->shape_.heads, qkv.rows() / this->batch_});
    heed::softmax_forward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(this->mixed_), {.lse = lse_},
                          heed::causal{});
    return this->mixed_;
  }

  void mix_backward(const matrix<T>& dy) override {
    const auto& qkv = this->qkv_;
    heed::softmax_backward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(this->mixed_), lse_,
                           this->heads(dy), this->q_of(this->dqkv_), this->k_of(this->dqkv_), this->v_of(this->dqkv_),
                           {}, heed::causal{});
  }

  heed::tensor<T, 3> lse_;
};

/// Linear attention, normalised, but for features that are the keys themselves. Its state are a D x E matrix a head and,
/// where it is normalised, the sum of the keys' features.
template <class T>
class linear_mixer : public mixer<T> {
 public:
  linear_mixer(parameters<T>& all, const mixer_shape& shape)
      : mixer<T>(all, shape, 0, mixer<T>::feature_map::identity) {}

  index_t state_size(index_t) const override {
    return this->shape_.heads * this->shape_.features * (this->shape_.value_features + (normalised() ? 1 : 0));
  }

 private:
  bool normalised() const { return this->shape_.features_of_keys != heed::feature_map::identity; }

  matrix<T> mix() override {
    const auto& qkv = this->qkv_;
    denominator_ = heed::tensor<T, 3>({this->batch_, this->shape_.heads, qkv.rows() / this->batch_});
    heed::linear_options<T> options{.map = this->shape_.features_of_keys, .normalise = normalised(), .causal = true};
    if (normalised()) options.denominator = denominator_;
    heed::linear_forward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(this->mixed_), options);
    return this->mixed_;
  }

  void mix_backward(const matrix<T>& dy) override {
    const auto& qkv = this->qkv_;
    heed::linear_backward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(this->mixed_), denominator_,
                          this->heads(dy), this->q_of(this->dqkv_), this->k_of(this->dqkv_), this->v_of(this->dqkv_),
                          {.map = this->shape_.features_of_keys, .normalise = normalised(), .causal = true});
  }

  heed::tensor<T, 3> denominator_;
};

/// GLA: a D x E matrix a head, whose rows decay by gates of their own, log sigmoid(rest) / 16.
template <class T>
class gla_mixer : public mixer<T> {
 public:
  gla_mixer(parameters<T>& all, const mixer_shape& shape)
      : mixer<T>(all, shape, shape.features, mixer<T>::feature_map::silu) {}

  index_t state_size(index_t) const override {
    return this->shape_.heads * this->shape_.features * this->shape_.value_features;
  }

 private:
  static constexpr T tau = 16;

  matrix<T> mix() override {
    const auto& qkv = this->qkv_;
    gates_ = -(1 + (-this->rest_.array()).exp()).log() / tau;
    heed::gated_linear_forward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(std::as_const(gates_)),
                               this->heads(this->mixed_));
    return this->mixed_;
  }

  void mix_backward(const matrix<T>& dy) override {
    const auto& qkv = this->qkv_;
    matrix<T> dgates(gates_.rows(), gates_.cols());
    heed::gated_linear_backward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(std::as_const(gates_)),
                                this->heads(dy), this->q_of(this->dqkv_), this->k_of(this->dqkv_),
                                this->v_of(this->dqkv_), this->heads(dgates));
    this->drest_ = dgates.array() * (-this->rest_.array()).logistic() / tau;
  }

  matrix<T> gates_;
};

/// GSA: S slots of a key and a value a head. What a token writes to each, and what it leaves of it, follows from rest.
template <class T>
class gsa_mixer : public mixer<T> {
 public:
  gsa_mixer(parameters<T>& all, const mixer_shape& shape)
      : mixer<T>(all, shape, shape.slots, mixer<T>::feature_map::silu) {}

  index_t state_size(index_t) const override {
    return this->shape_.heads * this->shape_.slots * (this->shape_.features + this->shape_.value_features);
  }

 private:
  matrix<T> mix() override {
    const auto& qkv = this->qkv_;
    logits_ = static_cast<T>(this->shape_.gate_gain) * this->rest_;
    for (auto* each : {&writes_, &gates_, &scores_}) each->resize(logits_.rows(), logits_.cols());
    heed::slot_gates_forward(this->heads(std::as_const(logits_)), this->heads(writes_), this->heads(gates_),
                             {.tau = this->shape_.gate_damping});
    heed::gated_slot_forward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(writes_),
                             this->heads(gates_), this->heads(this->mixed_),
                             {.scale = 1, .scores = this->heads(scores_)});
    return silu(this->mixed_);
  }

  void mix_backward(const matrix<T>& dy) override {
    const auto& qkv = this->qkv_;
    auto& dqkv = this->dqkv_;
    const matrix<T> dmixed = silu_backward(this->mixed_, dy);
    matrix<T> dwrites(writes_.rows(), writes_.cols()), dgates(gates_.rows(), gates_.cols());
    heed::gated_slot_backward(this->q_of(qkv), this->k_of(qkv), this->v_of(qkv), this->heads(writes_),
                              this->heads(gates_), this->heads(scores_), this->heads(dmixed), this->q_of(dqkv),
                              this->k_of(dqkv), this->v_of(dqkv), this->heads(dwrites), this->heads(dgates),
                              {.scale = 1});
    heed::slot_gates_backward(this->heads(std::as_const(logits_)), this->heads(dwrites), this->heads(dgates),
                              this->heads(this->drest_), {.tau = this->shape_.gate_damping});
    this->drest_ *= static_cast<T>(this->shape_.gate_gain);
  }

  matrix<T> logits_, writes_, gates_, scores_;
};

/// By the name of the operator.
template <class T>
std::unique_ptr<mixer<T>> make_mixer(std::string_view name, parameters<T>& all, const mixer_shape& shape) {
  if (name == "softmax") return std::make_unique<softmax_mixer<T>>(all, shape);
  if (name == "linear") return std::make_unique<linear_mixer<T>>(all, shape);
  if (name == "gla") return std::make_unique<gla_mixer<T>>(all, shape);
  if (name == "gsa") return std::make_unique<gsa_mixer<T>>(all, shape);
  throw std::invalid_argument("there is no mixer '" + std::string(name) + "'");
}

}  // namespace training
