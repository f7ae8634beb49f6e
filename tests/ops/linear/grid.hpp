/// Lengths, sizes and head counts that the operators of this family go through.
#pragma once

#include "support/grid.hpp"

#include <heed/core/view.hpp>

#include <type_traits>
#include <vector>

namespace linear_test {

inline std::vector<heed::index_t> lengths() {
  if (support::small_grid()) return {0, 1, 17, 65};
  return {0, 1, 2, 15, 16, 17, 63, 64, 65, 200};
}
inline constexpr heed::index_t head_sizes[] = {1, 3, 7, 16, 33, 64};

/// Whether tensors of S go through these sizes: of float all, of other types a fifth, among them every length and every
/// pair of head sizes. What other types do in their own way, to read and write rows, depends on one size at a time.
template <class S>
bool is_in_grid(heed::index_t N, heed::index_t D, heed::index_t E) {
  return (std::is_same_v<S, float> && !support::small_grid()) || (D * 7 + E + N) % 5 == 0;
}

struct head_counts {
  heed::index_t heads, groups;
};
inline constexpr head_counts groupings[] = {{2, 2}, {4, 2}, {3, 1}, {1, 1}, {6, 3}};

/// From gates near 0 to gates near 1.
inline constexpr double taus[] = {0.1, 1, 16};

}  // namespace linear_test
