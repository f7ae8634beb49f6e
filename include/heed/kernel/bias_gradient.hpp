/// The gradient by an additive bias: who adds up which of its elements, and where they go.
#pragma once

#include <heed/kernel/gradient_rows.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// What one task does for the gradient of a bias: elements of these batch entries, heads, tiles of queries and blocks
/// of keys. Over an axis that is broadcast it sums.
struct bias_part {
  struct range {
    index_t begin, end;
  };
  range entries, heads, tiles, blocks;
};

/// Cuts a bias into parts that no two tasks have in common: one entry, head, tile and block each of axes that are not
/// broadcast. Where nothing is summed over but perhaps keys, all blocks stay together.
template <class A, class S>
class bias_owners {
 public:
  using shape = tile_shape<accumulator_t<S>, A>;

  bias_owners(const view<const S, 4>& q, const view<const S, 4>& bias, const view<S, 4>& dbias) noexcept {
    const index_t all[4] = {q.extent(0), q.extent(1), (q.extent(2) + shape::queries - 1) / shape::queries,
                            (bias.extent(3) + shape::keys - 1) / shape::keys};
    bool sums = false;
    for (int axis = 0; axis < 4; ++axis) {
      all_[axis] = all[axis];
      const bool own = dbias.extent(axis) != 1 && (axis < 3 || sums);
      parts_[axis] = own ? all[axis] : 1;
      sums = sums || (!own && all[axis] > 1);
    }
  }

  index_t count() const noexcept { return parts_[0] * parts_[1] * parts_[2] * parts_[3]; }
  bias_part at(index_t number) const noexcept {
    bias_part::range ranges[4];
    for (int axis = 3; axis >= 0; --axis) {
      const index_t i = number % parts_[axis];
      ranges[axis] = {all_[axis] * i / parts_[axis], all_[axis] * (i + 1) / parts_[axis]};
      number /= parts_[axis];
    }
    return {ranges[0], ranges[1], ranges[2], ranges[3]};
  }

 private:
  index_t all_[4], parts_[4];
};

/// Sums [key][lane] of a part's block to the elements of the gradient that they belong to. `columns`: of each key the
/// column of the gradient, or null.
template <class A, class S>
void store_bias_gradients(const accumulator_t<S>* sums, const bias_part& part, index_t block,
                          const std::int32_t* columns, const view<S, 4>& to) noexcept {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  const auto own = [&](int axis, index_t i) { return to.extent(axis) == 1 ? 0 : i; };
  const index_t b = own(0, part.entries.begin), h = own(1, part.heads.begin);
  const index_t i0 = own(2, part.tiles.begin * shape::queries), j0 = own(3, block * shape::keys);
  const int queries = static_cast<int>(std::min<index_t>(shape::queries, to.extent(2) - i0));
  const int keys = static_cast<int>(std::min<index_t>(shape::keys, to.extent(3) - j0));
  if (columns == nullptr && to.extent(2) > 1 && to.extent(3) > 1) {
    for (int g = 0; g * shape::width < queries; ++g)
      store_transposed<shape::queries>(sums + g * shape::width, keys, pack<T, A>(T(1)),
                                       &to(b, h, i0 + g * shape::width, j0), to.stride(2),
                                       std::min(shape::width, queries - g * shape::width));
    return;
  }
  for (int i = 0; i < queries; ++i)
    for (int j = 0; j < keys; ++j) {
      double sum = 0;
      for (int key = to.extent(3) == 1 ? 0 : j; key < (to.extent(3) == 1 ? int(shape::keys) : j + 1); ++key)
        for (int lane = to.extent(2) == 1 ? 0 : i; lane < (to.extent(2) == 1 ? int(shape::queries) : i + 1); ++lane)
          sum += double(sums[key * shape::queries + lane]);
      to(b, h, i0 + i, columns != nullptr ? columns[j0 + j] : j0 + j) = S(static_cast<T>(sum));
    }
}

}  // namespace detail
HEED_ARCH_END
