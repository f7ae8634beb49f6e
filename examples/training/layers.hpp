/// A kit for training small models on the CPU: layers over Eigen matrices, each with a backward pass written by hand.
///
///     training::parameters<float> weights(seed);            // values, gradients and AdamW (parameters.hpp)
///     training::embedding table(weights, vocabulary, width);
///     training::rms_norm norm(weights, width);
///     training::linear head(weights, width, vocabulary);
///
///     const auto logits = head.forward(norm.forward(table.forward(tokens)));       // [rows, vocabulary]
///     matrix<float> dlogits;
///     const auto score = training::cross_entropy(logits, targets, dlogits);
///     table.backward(norm.backward(head.backward(dlogits)));
///     weights.step({.rate = 1e-3});
///
/// Matrices are row-major with a row for each token; a batch of B sequences of N tokens is B N rows, sequence by
/// sequence. A layer is made from `parameters`, to which its weights are added, and the widths:
///
///     embedding(all, vocabulary, width)      forward(tokens)
///     linear(all, in, out)                   forward(x [rows, in])       no bias
///     rms_norm(all, width)                   forward(x)
///     short_convolution(all, width, taps)    forward(x, batch)           causal, depthwise
///     swiglu(all, width, inner)              forward(x)
///
/// forward() keeps what backward() needs, so the two alternate. backward(dy) takes the gradient by the result, adds to
/// the gradients of the weights and returns the gradient by x. Functions without weights come in pairs:
///
///     silu(x)     silu_backward(x, dy)       cross_entropy(logits, targets, dlogits)
///
/// Mixers of tokens, made in the same way, are in mixers.hpp.
#pragma once

#include <cstdint>
#include <utility>

#include "parameters.hpp"

namespace training {

using token = std::int32_t;
using token_ids = std::vector<token>;

/// y = table[token]
template <class T>
class embedding {
 public:
  embedding(parameters<T>& all, index_t vocabulary, index_t width) : table_(all.normal(vocabulary, width, 1)) {}

  matrix<T> forward(const token_ids& tokens) {
    tokens_ = tokens;
    return table_.value()(tokens_, Eigen::all);
  }

  void backward(const matrix<T>& dy) {
    auto gradient = table_.gradient();
    for (index_t i = 0; i < dy.rows(); ++i) gradient.row(tokens_[static_cast<std::size_t>(i)]) += dy.row(i);
  }

 private:
  parameter<T> table_;
  token_ids tokens_;
};

/// y = x W
template <class T>
class linear {
 public:
  linear(parameters<T>& all, index_t in, index_t out)
      : weight_(all.normal(in, out, 1 / std::sqrt(static_cast<double>(in)))) {}

  matrix<T> forward(matrix<T> x) {
    x_ = std::move(x);
    return x_ * weight_.value();
  }

  matrix<T> backward(const matrix<T>& dy) {
    weight_.gradient().noalias() += x_.transpose() * dy;
    return dy * weight_.value().transpose();
  }

 private:
  parameter<T> weight_;
  matrix<T> x_;
};

/// y = w x / sqrt(mean of x^2 + eps), for each row
template <class T>
class rms_norm {
 public:
  rms_norm(parameters<T>& all, index_t width) : weight_(all.constant(1, width, 1)) {}

  matrix<T> forward(matrix<T> x) {
    x_ = std::move(x);
    scale_.resize(x_.rows());
    matrix<T> y(x_.rows(), x_.cols());
    for_row_blocks(x_.rows(), [&](index_t first, index_t count) {
      for (index_t i = first; i < first + count; ++i) {
        scale_[i] = 1 / std::sqrt(x_.row(i).squaredNorm() / static_cast<T>(x_.cols()) + eps);
        y.row(i) = scale_[i] * x_.row(i).cwiseProduct(weight_.value());
      }
    });
    return y;
  }

  matrix<T> backward(const matrix<T>& dy) {
    weight_.gradient() += scale_.transpose() * dy.cwiseProduct(x_);
    matrix<T> dx(dy.rows(), dy.cols());
    for_row_blocks(dy.rows(), [&](index_t first, index_t count) {
      for (index_t i = first; i < first + count; ++i) {
        dx.row(i) = scale_[i] * dy.row(i).cwiseProduct(weight_.value());
        const T along = dx.row(i).dot(x_.row(i)) * scale_[i] * scale_[i] / static_cast<T>(dx.cols());
        dx.row(i) -= along * x_.row(i);
      }
    });
    return dx;
  }

 private:
  static constexpr T eps = static_cast<T>(1e-5);
  parameter<T> weight_;
  matrix<T> x_;
  Eigen::Matrix<T, Eigen::Dynamic, 1> scale_;  // 1 / rms of each row
};

/// First weights of a short_convolution: y = x, or drawn from a normal distribution.
enum class first_taps { identity, random };

/// y_t = sum_n w_n x_{t-n} for n < taps, a weight for each feature; a sequence begins with nothing before it.
template <class T>
class short_convolution {
 public:
  short_convolution(parameters<T>& all, index_t width, index_t taps, first_taps first = first_taps::identity)
      : weight_(first == first_taps::random ? all.normal(taps, width, 1 / std::sqrt(static_cast<double>(taps)))
                                            : all.constant(taps, width, 0)) {
    if (first == first_taps::identity) weight_.value().row(0).setOnes();
  }

  matrix<T> forward(matrix<T> x, index_t batch) {
    x_ = std::move(x);
    length_ = x_.rows() / batch;
    matrix<T> y = matrix<T>::Zero(x_.rows(), x_.cols());
    for_row_blocks(x_.rows(), [&](index_t first, index_t count) {
      for (index_t i = first; i < first + count; ++i)
        for (index_t n = 0; n < taps(i % length_ + 1); ++n)
          y.row(i) += weight_.value().row(n).cwiseProduct(x_.row(i - n));
    });
    return y;
  }

  matrix<T> backward(const matrix<T>& dy) {
    auto gradient = weight_.gradient();
    for (index_t i = 0; i < dy.rows(); ++i)
      for (index_t n = 0; n < taps(i % length_ + 1); ++n) gradient.row(n) += dy.row(i).cwiseProduct(x_.row(i - n));
    matrix<T> dx = matrix<T>::Zero(dy.rows(), dy.cols());
    for_row_blocks(dy.rows(), [&](index_t first, index_t count) {
      for (index_t i = first; i < first + count; ++i)
        for (index_t n = 0; n < taps(length_ - i % length_); ++n)
          dx.row(i) += weight_.value().row(n).cwiseProduct(dy.row(i + n));
    });
    return dx;
  }

 private:
  index_t taps(index_t tokens_left) const { return std::min(weight_.rows(), tokens_left); }

  parameter<T> weight_;
  matrix<T> x_;
  index_t length_ = 0;
};

/// x sigmoid(x)
template <class T>
matrix<T> silu(const matrix<T>& x) {
  matrix<T> y(x.rows(), x.cols());
  for_row_blocks(x.rows(), [&](index_t first, index_t count) {
    const auto in = x.middleRows(first, count).array();
    y.middleRows(first, count) = in * in.logistic();
  });
  return y;
}

template <class T>
matrix<T> silu_backward(const matrix<T>& x, const matrix<T>& dy) {
  matrix<T> dx(x.rows(), x.cols());
  for_row_blocks(x.rows(), [&](index_t first, index_t count) {
    const auto in = x.middleRows(first, count).array();
    const Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> sigmoid = in.logistic();
    dx.middleRows(first, count) = dy.middleRows(first, count).array() * sigmoid * (1 + in * (1 - sigmoid));
  });
  return dx;
}

/// y = (silu(x G) * (x U)) D
template <class T>
class swiglu {
 public:
  swiglu(parameters<T>& all, index_t width, index_t inner)
      : gate_(all, width, inner), up_(all, width, inner), down_(all, inner, width) {}

  matrix<T> forward(const matrix<T>& x) {
    gates_ = gate_.forward(x);
    ups_ = up_.forward(x);
    opened_ = silu(gates_);
    return down_.forward(opened_.cwiseProduct(ups_));
  }

  matrix<T> backward(const matrix<T>& dy) {
    const matrix<T> dinner = down_.backward(dy);
    matrix<T> dx = up_.backward(dinner.cwiseProduct(opened_));
    dx += gate_.backward(silu_backward<T>(gates_, dinner.cwiseProduct(ups_)));
    return dx;
  }

 private:
  linear<T> gate_, up_, down_;
  matrix<T> gates_, ups_, opened_;
};

/// What cross_entropy found: the mean loss in nats, and how many rows there were and had their target on top.
struct prediction_score {
  double loss = 0;
  index_t rows = 0, right = 0;
  double accuracy() const { return rows == 0 ? 0 : static_cast<double>(right) / static_cast<double>(rows); }
};

/// Mean over the rows of -log softmax(logits)[target]; dlogits receives its gradient. Rows with a negative target do
/// not count.
template <class T>
prediction_score cross_entropy(const matrix<T>& logits, const token_ids& targets, matrix<T>& dlogits) {
  prediction_score score;
  score.rows = std::count_if(targets.begin(), targets.end(), [](token target) { return target >= 0; });
  dlogits = matrix<T>::Zero(logits.rows(), logits.cols());
  Eigen::ArrayXd losses = Eigen::ArrayXd::Zero(logits.rows());
  Eigen::ArrayXi right = Eigen::ArrayXi::Zero(logits.rows());
  for_row_blocks(logits.rows(), [&](index_t first, index_t count) {
    for (index_t i = first; i < first + count; ++i) {
      const token target = targets[static_cast<std::size_t>(i)];
      if (target < 0) continue;
      index_t top = 0;
      const T most = logits.row(i).maxCoeff(&top);
      auto d = dlogits.row(i);
      d = (logits.row(i).array() - most).exp();
      const T sum = d.sum();
      losses[i] = std::log(double(sum)) + double(most) - double(logits(i, target));
      right[i] = top == target;
      d /= sum;
      d[target] -= 1;
      d /= static_cast<T>(score.rows);
    }
  });
  score.right = right.sum();
  score.loss = score.rows == 0 ? 0 : losses.sum() / static_cast<double>(score.rows);
  return score;
}

}  // namespace training
