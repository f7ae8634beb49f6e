/// Tensors whose surroundings show whether anybody wrote there.
#pragma once

#include <heed/core/tensor.hpp>

#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/random.hpp"

namespace support {

/// How a [B, H, tokens, ...] tensor lies in memory.
enum class layout {
  dense,         ///< [B, H, tokens, ...]
  tokens_first,  ///< [B, tokens, H, ...]
  padded,        ///< gaps behind every row, head and batch entry
  reversed       ///< padded, and tokens run backwards
};

inline constexpr layout layouts[] = {layout::dense, layout::tokens_first, layout::padded, layout::reversed};

/// A tensor of rank 3 or 4 in a buffer that holds `canary` in every other place: behind rows, before, after.
template <class T, int Rank>
class guarded {
 public:
  guarded(const heed::index_t (&extents)[Rank], layout where, T inside, T canary) : canary_(canary) {
    const heed::index_t gap = where == layout::padded || where == layout::reversed ? 5 : 0;
    int order[Rank];
    for (int axis = 0; axis < Rank; ++axis) order[axis] = axis;
    if (where == layout::tokens_first) std::swap(order[1], order[2]);
    heed::index_t strides[Rank], reach = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      strides[order[i]] = reach;
      reach = reach * extents[order[i]] + gap;
    }
    buffer_.assign(static_cast<std::size_t>(reach + 2 * margin), canary);
    owned_.assign(buffer_.size(), false);
    T* origin = buffer_.data() + margin;
    if (where == layout::reversed && extents[2] > 0) {
      origin += (extents[2] - 1) * strides[2];
      strides[2] = -strides[2];
    }
    view_ = heed::view<T, Rank>(origin, extents, strides);
    own(view_, inside);
  }

  heed::view<T, Rank> all() { return view_; }
  heed::view<const T, Rank> all() const { return view_; }

  /// Whether every place outside the tensor still holds the canary, bit for bit.
  bool intact() const {
    for (std::size_t i = 0; i < buffer_.size(); ++i)
      if (!owned_[i] && std::memcmp(&buffer_[i], &canary_, sizeof(T)) != 0) return false;
    return true;
  }

 private:
  static constexpr heed::index_t margin = 160;

  template <int R>
  void own(heed::view<T, R> part, T inside) {
    for (heed::index_t i = 0; i < part.extent(0); ++i) {
      if constexpr (R == 1) {
        part[i] = inside;
        owned_[static_cast<std::size_t>(&part[i] - buffer_.data())] = true;
      } else {
        own(part[i], inside);
      }
    }
  }

  T canary_;
  std::vector<T> buffer_;
  std::vector<bool> owned_;
  heed::view<T, Rank> view_;
};

template <class T, int Rank>
void copy_into(const std::type_identity_t<heed::view<const T, Rank>>& from, const heed::view<T, Rank>& to) {
  for (heed::index_t i = 0; i < from.extent(0); ++i) {
    if constexpr (Rank == 1)
      to[i] = from[i];
    else
      copy_into<T, Rank - 1>(from[i], to[i]);
  }
}

/// A copy in another layout. Whoever reads beside it finds NaN.
template <class T, int Rank>
guarded<T, Rank> laid_out(const heed::tensor<T, Rank>& t, layout where) {
  heed::index_t extents[Rank];
  for (int axis = 0; axis < Rank; ++axis) extents[axis] = t.extent(axis);
  guarded<T, Rank> other(extents, where, T(0), quiet_nan<T>);
  copy_into<T, Rank>(t, other.all());
  return other;
}

/// A place for an output of the same extents, full of NaN.
template <class T, int Rank>
guarded<T, Rank> output_like(const heed::tensor<T, Rank>& t, layout where) {
  heed::index_t extents[Rank];
  for (int axis = 0; axis < Rank; ++axis) extents[axis] = t.extent(axis);
  return guarded<T, Rank>(extents, where, quiet_nan<T>, T(-777));
}

}  // namespace support
