/// The mask of batch entries that are shorter than the tensor.
#pragma once

#include <heed/core/sequence_offsets.hpp>
#include <heed/mod/position.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Shows the first lengths.at(b) keys, or all.   visible = kv < lengths[b]
struct first_keys {
  sequence_lengths lengths;

  int end(int b) const noexcept { return lengths ? to_position(lengths.at(b)) : INT_MAX; }

  template <class Index>
  HEED_INLINE bool operator()(const basic_position<Index>& at) const noexcept {
    return at.kv < end(at.b);
  }
  tile_class classify(int b, int, int, int, int k0, int k1) const noexcept {
    return class_of(k0 >= end(b), k1 <= end(b));
  }
  key_range keys(int b, int, int, int) const noexcept { return {INT_MIN, end(b)}; }
};

}  // namespace detail
HEED_ARCH_END
