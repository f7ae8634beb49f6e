/// What a worker of a backward call keeps: tiles, and the memory that they share.
#pragma once

#include <heed/core/scratch.hpp>
#include <heed/kernel/gradient_tile.hpp>

#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

/// Scratch of one worker.
template <class S, class A>
struct gradient_workspace {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  gradient_workspace(scratch_cursor& memory, index_t features, index_t value_features, bool bias, bool by_bias,
                     index_t rows) noexcept
      : buffers(memory, features, value_features, !std::is_same_v<S, T>, bias) {
    for (auto& tile : tiles) tile = gradient_tile<T, A>(memory, buffers);
    sums = memory.take<T>(rows);
    bias_sums = by_bias ? memory.take<T>(shape::keys * shape::queries) : nullptr;
  }
  gradient_workspace(const gradient_workspace&) = delete;
  gradient_workspace& operator=(const gradient_workspace&) = delete;

  gradient_buffers<T, A> buffers;
  gradient_tile<T, A> tiles[shape::tiles];
  T* sums;       // gradients of all keys of a unit, where outputs are of another type and no other task adds to them
  T* bias_sums;  // [key][lane]
};

}  // namespace detail
HEED_ARCH_END
