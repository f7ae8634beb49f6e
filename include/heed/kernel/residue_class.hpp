/// Tokens whose positions are equal modulo a step, as a problem of their own.
#pragma once

#include <heed/kernel/softmax_rows.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Token u of the class stands at position residue + step u.
struct residue_class {
  index_t step, residue;

  /// Rows of a tensor that belong to the class: `first`, first + step, ..., `count` of them; `token` is u of the first.
  struct members {
    index_t first, count, token;
  };
  /// Of a tensor with `rows` tokens, the first of them at position `offset`.
  members of(index_t rows, index_t offset) const noexcept {
    const index_t first = distance_to_class(offset);
    return {first, first < rows ? (rows - first + step - 1) / step : 0, (offset + first - residue) / step};
  }

  /// The first u whose position is not below `position`.
  index_t token_from(index_t position) const noexcept {
    return (position + distance_to_class(position) - residue) / step;
  }

 private:
  index_t distance_to_class(index_t position) const noexcept {
    const index_t rest = (residue - position) % step;
    return rest < 0 ? rest + step : rest;
  }
};

/// The class of position `position`.
inline residue_class class_of_position(index_t step, index_t position) noexcept {
  const index_t rest = position % step;
  return {step, rest < 0 ? rest + step : rest};
}

/// The rows of a class, where they lie. Axis 2 counts tokens.
template <class T, int Rank>
view<T, Rank> rows_of_class(const view<T, Rank>& t, const residue_class::members& own, index_t step) noexcept {
  index_t extents[Rank], strides[Rank];
  for (int axis = 0; axis < Rank; ++axis) {
    extents[axis] = t.extent(axis);
    strides[axis] = t.stride(axis);
  }
  extents[2] = own.count;
  strides[2] *= step;
  const bool some = t.data() != nullptr && own.count > 0;
  return {some ? t.data() + own.first * t.stride(2) : t.data(), extents, strides};
}

/// A mask as the tokens of a class see it: asked for tokens u, it answers for their positions.
template <class Mask>
struct mask_of_class {
  const Mask& mask;
  int step, residue;

  template <class Index>
    requires std::is_invocable_v<const Mask&, const basic_position<Index>&>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const {
    return mask(basic_position<Index>{at.b, at.h, at.q * step + residue, position_of(at.kv)});
  }

  /// Rectangles hold other classes besides: what is true of all their pairs is true of the class.
  tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const {
    return detail::classify(mask, b, h, position_of(q0), position_of(q1 - 1) + 1, position_of(k0),
                            position_of(k1 - 1) + 1);
  }

  key_range keys(int b, int h, int q0, int q1) const {
    const key_range range = visible_keys(mask, b, h, position_of(q0), position_of(q1 - 1) + 1);
    const residue_class tokens{step, residue};
    return {to_position(tokens.token_from(range.begin)), to_position(tokens.token_from(range.end))};
  }

 private:
  HEED_INLINE int position_of(int token) const noexcept { return token * step + residue; }
};

}  // namespace detail
HEED_ARCH_END
