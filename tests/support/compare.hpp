/// Comparisons of results.
#pragma once

#include <heed/core/view.hpp>

#include <cmath>
#include <cstring>

namespace support {

/// NaN if one of them is.
inline double worse(double a, double b) { return a >= b || std::isnan(a) ? a : b; }

template <class T, int Rank>
bool same_bits(const heed::view<const T, Rank>& a, const heed::view<const T, Rank>& b) {
  for (int axis = 0; axis < Rank; ++axis)
    if (a.extent(axis) != b.extent(axis)) return false;
  for (heed::index_t i = 0; i < a.extent(0); ++i) {
    if constexpr (Rank == 1) {
      if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) return false;
    } else {
      if (!same_bits<T, Rank - 1>(a[i], b[i])) return false;
    }
  }
  return true;
}

}  // namespace support
