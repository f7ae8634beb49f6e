/// Between row-major tensors and transposed tiles [row][lane].
#pragma once

#include <heed/kernel/prefetch.hpp>
#include <heed/kernel/row_handles.hpp>
#include <heed/simd/convert.hpp>
#include <heed/simd/transpose.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// to[d][lane] = factor(d) * rows[lane][d] for one vector of lanes; lanes from `count` on get 0.
template <int Pitch, class T, class A, class Rows, class Factor>
void load_transposed_by(const Rows& rows, int count, index_t features, const Factor& factor, T* to) noexcept {
  using S = std::remove_cvref_t<decltype(*rows[0])>;
  constexpr int width = lanes<T, A>;
  pack<T, A> block[width];
  const auto store = [&](index_t d, int columns) {
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) (block[i] * factor(d + i)).store_aligned(to + (d + i) * Pitch);
  };
  index_t d = 0;
  if (count >= width) {
    for (; d + width <= features; d += width) {
      if constexpr (loads_squares<T, A> && std::is_same_v<S, T> && are_strided<Rows>) {
        load_square_transposed(rows.data + d, rows.stride, block);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) block[i] = load_as<T, A>(rows[i] + d);
        transpose(block);
      }
      store(d, width);
    }
  }
  for (; d < features; d += width) {
    const int columns = static_cast<int>(std::min<index_t>(width, features - d));
    for (int i = 0; i < width; ++i) {
      if (i >= count)
        block[i] = pack<T, A>(T(0));
      else
        block[i] = columns == width ? load_as<T, A>(rows[i] + d) : load_first_as<T, A>(rows[i] + d, columns);
    }
    transpose(block);
    store(d, columns);
  }
}

template <int Pitch, class T, class A, class S, class Factor>
void load_transposed_by(const S* rows, index_t stride, int count, index_t features, const Factor& factor,
                        T* to) noexcept {
  load_transposed_by<Pitch, T, A>(strided_rows<const S>{rows, stride}, count, features, factor, to);
}

/// The same with one factor.
template <int Pitch, class T, class A, class S>
void load_transposed(const S* rows, index_t stride, int count, index_t features, pack<T, A> factor, T* to) noexcept {
  load_transposed_by<Pitch, T, A>(rows, stride, count, features, [&](index_t) { return factor; }, to);
}

/// to[d][lane] = factor * rows[lane][d] for `count` lanes and those that fill their last vector up, which get 0.
template <int Pitch, class T, class A, class Rows>
void load_lanes(const Rows& rows, int count, index_t features, pack<T, A> factor, T* to) noexcept {
  constexpr int width = lanes<T, A>;
  // Row by row, which the processor's own prefetcher follows; the transposition hops between rows.
  for (int i = 0; i < count; ++i) prefetch_row<0>(rows[i], features);
  for (int lane = 0; lane < count; lane += width)
    load_transposed_by<Pitch, T, A>(
        rows.from(lane), std::min(width, count - lane), features, [&](index_t) { return factor; }, to + lane);
}
template <int Pitch, class T, class A, class S>
void load_lanes(const S* rows, index_t stride, int count, index_t features, pack<T, A> factor, T* to) noexcept {
  load_lanes<Pitch>(strided_rows<const S>{rows, stride}, count, features, factor, to);
}

/// rows[lane][e] = factor[lane] * from[e][lane] for the first `count` lanes of one vector.
template <int Pitch, class T, class A, class Rows>
void store_transposed(const T* from, index_t features, pack<T, A> factor, const Rows& rows, int count) noexcept {
  constexpr int width = lanes<T, A>;
  pack<T, A> block[width];
  // Listed once: the compiler cannot know that vectors that are stored leave the list as it is.
  std::remove_cvref_t<decltype(rows[0])> to[width];
  for (int i = 0; i < std::min(count, width); ++i) to[i] = rows[i];
  index_t e = 0;
  if (count >= width) {
    for (; e + width <= features; e += width) {
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i) block[i] = pack<T, A>::load_aligned(from + (e + i) * Pitch) * factor;
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i) store_as(to[i] + e, block[i]);
    }
  }
  for (; e < features; e += width) {
    const int columns = static_cast<int>(std::min<index_t>(width, features - e));
    for (int i = 0; i < width; ++i)
      block[i] = i < columns ? pack<T, A>::load_aligned(from + (e + i) * Pitch) * factor : pack<T, A>(T(0));
    transpose(block);
    for (int i = 0; i < std::min(count, width); ++i) {
      if (columns == width)
        store_as(to[i] + e, block[i]);
      else
        store_first_as(to[i] + e, block[i], columns);
    }
  }
}
template <int Pitch, class T, class A, class S>
void store_transposed(const T* from, index_t features, pack<T, A> factor, S* rows, index_t stride, int count) noexcept {
  store_transposed<Pitch>(from, features, factor, strided_rows<S>{rows, stride}, count);
}

/// An odd number of cache lines: rows of a power-of-two pitch fall on each other in a set-associative cache.
template <class T>
constexpr index_t conflict_free_pitch(index_t features) noexcept {
  const index_t lines = (features * index_t(sizeof(T)) + cache_line - 1) / cache_line;
  return (lines | 1) * (cache_line / index_t(sizeof(T)));
}

/// Copies a row to another type.
template <class T, class A, class S>
void convert_row(const S* from, T* to, index_t features) noexcept {
  constexpr int width = lanes<T, A>;
  index_t i = 0;
  for (; i + width <= features; i += width) load_as<T, A>(from + i).store_aligned(to + i);
  if (i < features) load_first_as<T, A>(from + i, static_cast<int>(features - i)).store_aligned(to + i);
}

}  // namespace detail
HEED_ARCH_END
