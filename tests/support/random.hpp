/// Tensors of random numbers, the same ones in every run.
#pragma once

#include <heed/core/tensor.hpp>

#include <limits>
#include <random>

namespace support {

using random_engine = std::mt19937;

template <class T>
inline constexpr T quiet_nan = T(std::numeric_limits<double>::quiet_NaN());

/// A whole number in [low, high].
inline heed::index_t draw(random_engine& random, heed::index_t low, heed::index_t high) {
  return std::uniform_int_distribution<heed::index_t>(low, high)(random);
}

/// Writes normal deviates of the given standard deviation.
template <class T, int Rank>
void fill_normal(heed::view<T, Rank> t, random_engine& random, double deviation = 1) {
  if constexpr (Rank == 1) {
    std::normal_distribution<double> normal(0, deviation);
    for (heed::index_t i = 0; i < t.extent(0); ++i) t[i] = T(normal(random));
  } else {
    for (heed::index_t i = 0; i < t.extent(0); ++i) fill_normal(t[i], random, deviation);
  }
}

template <class T, int Rank>
heed::tensor<T, Rank> normal_tensor(const heed::index_t (&extents)[Rank], random_engine& random, double deviation = 1) {
  heed::tensor<T, Rank> t(extents);
  fill_normal(t.all(), random, deviation);
  return t;
}

}  // namespace support
