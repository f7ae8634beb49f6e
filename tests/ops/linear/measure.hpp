/// Random gates, and what an error is in units of what is allowed.
#pragma once

#include "reference/recurrence.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <heed/core/float16.hpp>
#include <heed/core/sequence_offsets.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

namespace linear_test {

using heed::index_t;
using heed::tensor;
using heed::view;
using support::same_bits;
using support::worse;

/// log sigmoid(n) / tau for normal n.
template <class T, int Rank>
tensor<T, Rank> random_gates(const index_t (&extents)[Rank], double tau, support::random_engine& random) {
  tensor<T, Rank> g = support::normal_tensor<T, Rank>(extents, random);
  for (T& x : g) {
    const auto n = static_cast<double>(x);
    x = static_cast<T>((std::min(n, 0.0) - std::log1p(std::exp(-std::fabs(n)))) / tau);
  }
  return g;
}

/// Of outputs and states against the definition; T decides for what is stored in accumulators.
template <class S>
inline constexpr double tolerance = std::is_same_v<S, double>           ? 1e-11
                                    : std::is_same_v<S, float>          ? 2e-5
                                    : std::is_same_v<S, heed::bfloat16> ? 2e-2
                                                                        : 4e-3;

/// Of gradients, and of those by log gates, whose sums are the longest.
template <class S>
inline constexpr double gradient_tolerance = std::is_same_v<S, float> ? 1e-4 : tolerance<S>;
template <class S>
inline constexpr double gate_gradient_tolerance = std::is_same_v<S, float> ? 5e-4 : tolerance<S>;

template <class S, int Rank>
double largest_difference(const view<const S, Rank>& got, const view<const double, Rank>& expected) {
  double largest = 0;
  for (index_t i = 0; i < got.extent(0); ++i) {
    if constexpr (Rank == 1)
      largest = worse(largest, std::fabs(static_cast<double>(got[i]) - expected[i]));
    else
      largest = worse(largest, largest_difference<S, Rank - 1>(got[i], expected[i]));
  }
  return largest;
}

/// The largest error, in units of allowed (1 + max |expected|).
template <class S, int Rank>
double error(const std::type_identity_t<view<const S, Rank>>& got, const tensor<double, Rank>& expected,
             double allowed = tolerance<S>) {
  for (int axis = 0; axis < Rank; ++axis)
    if (got.extent(axis) != expected.extent(axis)) return support::quiet_nan<double>;
  double size = 1;
  for (const double x : expected) size = std::max(size, 1 + std::fabs(x));
  return largest_difference<S, Rank>(got, expected) / (allowed * size);
}

inline std::vector<index_t> offsets_of(const heed::sequence_offsets& cu) {
  std::vector<index_t> offsets;
  for (index_t s = 0; s < cu.size(); ++s) offsets.push_back(cu.at(s));
  return offsets;
}

}  // namespace linear_test
