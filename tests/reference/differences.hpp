/// Gradients against central differences.
#pragma once

#include <heed/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace reference_test {

using heed::index_t;

/// d f() / d x for every x of `values`, which f reads: (8 (f(+h) - f(-h)) - (f(+2h) - f(-2h))) / 12 h. With h = 2^-10
/// the error of the formula, of order h^4, and that of rounding, f 2^-53 / h, are both near 1e-12. Where x = -inf
/// stands for something that is not there it stays so: 0.
template <class Values, class F>
std::vector<double> differences(Values& values, const F& f) {
  constexpr double h = 0x1p-10;
  std::vector<double> slopes;
  for (double& x : values) {
    const double before = x;
    const auto at = [&](double step) {
      x = before + step;
      return f();
    };
    slopes.push_back(std::isinf(x) ? 0 : (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h));
    x = before;
  }
  return slopes;
}

/// NaN if one of them is, infinity if there are not as many of both.
template <class Values, class Others>
double largest_difference(const Values& values, const Others& others) {
  if (values.end() - values.begin() != others.end() - others.begin()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  auto other = others.begin();
  for (const double x : values) {
    const double difference = std::fabs(x - *other++);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

/// What a problem's gradients may differ by from their differences, in units of the largest of them.
inline constexpr double tolerance = 1e-9;

struct comparison {
  double difference = 0, size = 0;

  template <class Values>
  void add(const Values& values, const std::vector<double>& expected) {
    const double here = largest_difference(values, expected);
    if (!(here <= difference)) difference = here;
    for (const double x : values) size = std::max(size, std::fabs(x));
  }
};

inline double weighted_sum(const heed::tensor<double, 4>& weights, const heed::tensor<double, 4>& out) {
  double sum = 0;
  for (index_t i = 0; i < out.size(); ++i) sum += weights.data()[i] * out.data()[i];
  return sum;
}

/// Over the rows that see something.
inline double weighted_sum(const heed::tensor<double, 3>& weights, const heed::tensor<double, 3>& lse) {
  double sum = 0;
  for (index_t i = 0; i < lse.size(); ++i)
    if (std::isfinite(lse.data()[i])) sum += weights.data()[i] * lse.data()[i];
  return sum;
}

}  // namespace reference_test
