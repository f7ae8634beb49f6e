/// A layer's backward pass against central differences in double.
#pragma once

#include <cmath>
#include <functional>

#include "layers.hpp"
#include "support/catch.hpp"

namespace training {

using table = matrix<double>;

/// Numbers without a pattern, the same in every run.
inline table numbers(index_t rows, index_t cols, int salt) {
  table x(rows, cols);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = std::sin(1.7 * static_cast<double>((i + 1) * (salt + 3)));
  return x;
}

/// A layer as a function of x, and its backward pass, that gives the gradient by x.
struct checked_layer {
  std::function<table(const table&)> forward;
  std::function<table(const table&)> backward;
};

/// The gradient of sum(weights * forward(x)) by x and by all parameters, against central differences.
inline void check_gradients(parameters<double>& all, table x, const checked_layer& layer) {
  for (double& value : all.values())
    value += 0.1 * std::sin(37.0 * value + 1);  // no special values, such as the ones of norms
  const table weights = numbers(layer.forward(x).rows(), layer.forward(x).cols(), 5);
  const auto loss = [&] { return layer.forward(x).cwiseProduct(weights).sum(); };
  const auto slope = [&](double& at) {
    const double kept = at, step = 1e-5;
    at = kept + step;
    const double above = loss();
    at = kept - step;
    const double below = loss();
    at = kept;
    return (above - below) / (2 * step);
  };

  all.clear_gradients();
  loss();
  const table dx = layer.backward(weights);
  for (index_t i = 0; i < dx.size(); ++i) {
    INFO("gradient by input " << i);
    REQUIRE(dx.data()[i] == Approx(slope(x.data()[i])).margin(1e-7).epsilon(1e-7));
  }
  for (std::size_t i = 0; i < all.values().size(); ++i) {
    INFO("gradient by parameter " << i);
    REQUIRE(all.gradients()[i] == Approx(slope(all.values()[i])).margin(1e-7).epsilon(1e-7));
  }
}

}  // namespace training
