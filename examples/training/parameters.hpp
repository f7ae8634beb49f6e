/// Weights of a model in one flat array, their gradients in another, and AdamW, which goes over both.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <heed/interop/eigen.hpp>
#include <numbers>
#include <random>
#include <span>
#include <vector>

namespace training {

using heed::index_t;

/// Tokens in rows, features in columns. T is float, or double where gradients are checked.
template <class T>
using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using matrix_map = Eigen::Map<matrix<T>>;

/// Calls f(first, count) for blocks of [0, rows), in parallel with OpenMP.
template <class F>
void for_row_blocks(index_t rows, const F& f) {
  constexpr index_t block = 64;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) if (rows > block)
#endif
  for (index_t first = 0; first < rows; first += block) f(first, std::min(block, rows - first));
}

/// Decoupled weight decay: value -= rate (m / (sqrt(v) + eps) + decay value), with the bias-corrected means m of the
/// gradient and v of its square. Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
struct adamw_options {
  double rate = 1e-3;
  double decay = 0.1;
  double beta1 = 0.9, beta2 = 0.98;
  double eps = 1e-8;
  double largest_norm = 1;  // longer gradients are scaled to this length
};

/// Rises to `peak` over the first `warmup` steps, then falls to 0 as a cosine.
inline double cosine_rate(index_t step, index_t steps, index_t warmup, double peak) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done = static_cast<double>(step - warmup) / static_cast<double>(std::max<index_t>(1, steps - warmup));
  return peak / 2 * (1 + std::cos(std::numbers::pi * done));
}

template <class T>
class parameters;

/// A matrix of weights and its gradient, where `parameters` keeps them.
template <class T>
class parameter {
 public:
  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }
  matrix_map<T> value() const { return {all_->values_.data() + offset_, rows_, cols_}; }
  /// Backward passes add to it.
  matrix_map<T> gradient() const { return {all_->gradients_.data() + offset_, rows_, cols_}; }

 private:
  friend class parameters<T>;
  parameter(parameters<T>& all, index_t offset, index_t rows, index_t cols)
      : all_(&all), offset_(offset), rows_(rows), cols_(cols) {}

  parameters<T>* all_;
  index_t offset_, rows_, cols_;
};

/// Layers refer to it, so it stays where it is.
template <class T>
class parameters {
 public:
  explicit parameters(unsigned seed) : random_(seed) {}
  parameters(const parameters&) = delete;
  parameters& operator=(const parameters&) = delete;

  /// Normally distributed weights, which decay.
  parameter<T> normal(index_t rows, index_t cols, double deviation) {
    const parameter<T> added = add(rows, cols, 1);
    std::normal_distribution<double> draw(0, deviation);
    for (T& x : added.value().reshaped()) x = static_cast<T>(draw(random_));
    return added;
  }

  /// Equal weights, such as those of norms, which do not decay.
  parameter<T> constant(index_t rows, index_t cols, double value) {
    const parameter<T> added = add(rows, cols, 0);
    added.value().setConstant(static_cast<T>(value));
    return added;
  }

  index_t size() const { return std::ssize(values_); }
  std::span<T> values() { return values_; }
  std::span<const T> gradients() const { return gradients_; }
  /// Adds the gradients of a copy of the model, which has seen other data.
  void add_gradients(const parameters& copy) {
    std::transform(gradients_.begin(), gradients_.end(), copy.gradients_.begin(), gradients_.begin(), std::plus<T>());
  }
  void clear_gradients() { std::fill(gradients_.begin(), gradients_.end(), T(0)); }

  /// One step of AdamW, after which gradients are zero again. Returns the length that the gradient had.
  double step(const adamw_options& options) {
    ++steps_;
    double squares = 0;
    for (const T g : gradients_) squares += double(g) * double(g);
    const double norm = std::sqrt(squares);
    const T clip = static_cast<T>(norm > options.largest_norm ? options.largest_norm / norm : 1);
    const T beta1 = static_cast<T>(options.beta1), beta2 = static_cast<T>(options.beta2);
    const T rate = static_cast<T>(options.rate / (1 - std::pow(options.beta1, steps_)));
    const T unbias = static_cast<T>(1 / (1 - std::pow(options.beta2, steps_)));
    const T decay = static_cast<T>(options.rate * options.decay), eps = static_cast<T>(options.eps);
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const T g = clip * gradients_[i];
      mean_[i] += (1 - beta1) * (g - mean_[i]);
      square_[i] += (1 - beta2) * (g * g - square_[i]);
      values_[i] -= rate * mean_[i] / (std::sqrt(unbias * square_[i]) + eps) + decay * decays_[i] * values_[i];
      gradients_[i] = 0;
    }
    return norm;
  }

 private:
  friend class parameter<T>;

  parameter<T> add(index_t rows, index_t cols, T decays) {
    const parameter<T> added(*this, size(), rows, cols);
    const auto total = static_cast<std::size_t>(size() + rows * cols);
    for (auto* array : {&values_, &gradients_, &mean_, &square_}) array->resize(total, T(0));
    decays_.resize(total, decays);
    return added;
  }

  std::mt19937 random_;
  std::vector<T> values_, gradients_, mean_, square_;
  std::vector<T> decays_;  // 1 or 0
  int steps_ = 0;
};

}  // namespace training
