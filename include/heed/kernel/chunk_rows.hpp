/// Rows of a chunk as its products want them: in the type of the sums, whole vectors long, scaled, or transposed.
#pragma once

#include <heed/kernel/chunk_products.hpp>
#include <heed/kernel/tile_io.hpp>

#include <numeric>

HEED_ARCH_BEGIN
namespace detail {

/// Rows of scratch for `rows` rows of `features` numbers, whose last vectors are whole.
template <class T>
row_span<T> take_rows(scratch_cursor& memory, index_t rows, index_t features) noexcept {
  const index_t pitch = conflict_free_pitch<T>(features);
  return {memory.take<T>(rows * pitch), pitch};
}

/// Panels of scratch for `rows` rows of `features` numbers.
template <class T, class A>
row_panels<T> take_panels(scratch_cursor& memory, index_t rows, index_t features) noexcept {
  return {memory.take<T>(round_up(rows, row_panels<T>::template pitch<A>) * features), features};
}

/// f(vector, numbers in it) for the vectors of a row of `features` numbers.
template <class T, class A, class F>
HEED_INLINE void for_vectors(index_t features, F f) noexcept {
  constexpr int width = lanes<T, A>;
  index_t i = 0;
  for (; i + width <= features; i += width) f(i, width);
  if (i < features) f(i, static_cast<int>(features - i));
}

/// A vector of a row of storage elements, 0 beyond its `count` numbers.
template <class T, class A, class S>
HEED_INLINE pack<T, A> load_some(const S* from, int count) noexcept {
  return count == lanes<T, A> ? load_as<T, A>(from) : load_first_as<T, A>(from, count);
}
/// The vector that starts at number i of a row of `features`.
template <class T, class A, class S>
HEED_INLINE pack<T, A> load_within(const S* row, index_t i, index_t features) noexcept {
  return load_some<T, A>(row + i, static_cast<int>(std::min<index_t>(lanes<T, A>, features - i)));
}
template <class S, class T, class A>
HEED_INLINE void store_some(S* to, pack<T, A> value, int count) noexcept {
  if (count == lanes<T, A>)
    store_as(to, value);
  else
    store_first_as(to, value, count);
}

/// to[t][i] = scale(t, i, from[t][i]) for rows [begin, end), vector by vector, with zeros up to the end of the last.
template <class T, class A, class S, class Scale>
HEED_NOINLINE void copy_rows(row_span<const S> from, index_t begin, index_t end, index_t features, row_span<T> to,
                             Scale scale) noexcept {
  for (index_t t = begin; t < end; ++t)
    for_vectors<T, A>(features, [&](index_t i, int count) {
      scale(t, i, load_some<T, A>(from[t] + i, count)).store_aligned(to[t] + i);
    });
}

/// The same without a scale.
template <class T, class A, class S>
HEED_INLINE void copy_rows(row_span<const S> from, index_t begin, index_t end, index_t features,
                           row_span<T> to) noexcept {
  copy_rows<T, A>(from, begin, end, features, to, [](index_t, index_t, pack<T, A> x) { return x; });
}

/// to[t] = from[t] for t < count; rows of `from` are whole vectors long.
template <class A, class T, class S>
HEED_NOINLINE void store_rows(row_span<const T> from, row_span<S> to, index_t count, index_t features) noexcept {
  for (index_t t = 0; t < count; ++t)
    for_vectors<T, A>(features,
                      [&](index_t i, int some) { store_some(to[t] + i, pack<T, A>::load_aligned(from[t] + i), some); });
}

/// Whether rows at this stride fall on each other in a first-level cache, of which a way holds 4 KiB as a rule: heads of
/// a power of two, or one head of several.
template <class T>
bool rows_conflict(index_t stride, index_t count) noexcept {
  constexpr index_t way = 4096, most = 4;
  const index_t places = way / std::gcd(stride * index_t(sizeof(T)), way);
  return stride != 0 && count > most * places;
}

/// The rows themselves where they can be read in place, by scalars or in whole vectors, again and again; else a copy.
template <class T, class A, class S>
row_span<const T> rows_for_scalars(row_span<const S> rows, index_t begin, index_t end, index_t features,
                                   row_span<T> copy) noexcept {
  if constexpr (std::is_same_v<S, T>) {
    return rows;
  } else {
    copy_rows<T, A>(rows, begin, end, features, copy);
    return copy;
  }
}
template <class T, class A, class S>
row_span<const T> rows_for_vectors(row_span<const S> rows, index_t begin, index_t end, index_t features,
                                   row_span<T> copy) noexcept {
  if constexpr (std::is_same_v<S, T>)
    if (features % lanes<T, A> == 0 && !rows_conflict<T>(rows.stride, end - begin)) return rows;
  copy_rows<T, A>(rows, begin, end, features, copy);
  return copy;
}

/// Where products leave rows of `features` numbers: the rows themselves if whole vectors of their type fit, else
/// scratch that leave_rows copies from.
template <class T, class A, class S>
row_span<T> rows_to_leave(row_span<S> rows, index_t features, row_span<T> scratch) noexcept {
  if constexpr (std::is_same_v<S, T>)
    if (features % lanes<T, A> == 0) return rows;
  return scratch;
}
template <class T, class A, class S>
void leave_rows(row_span<T> left, row_span<S> rows, index_t begin, index_t end, index_t features) noexcept {
  if (static_cast<const void*>(left.data) == static_cast<const void*>(rows.data)) return;
  store_rows<A>(row_span<const T>(left.from(begin)), rows.from(begin), end - begin, features);
}

/// Panels of rows [0, count), feature d times factor(d); lanes past the last row are 0.
template <class T, class A, class S, class Factor>
HEED_NOINLINE void transpose_rows(row_span<const S> rows, index_t count, row_panels<T> to,
                                  const Factor& factor) noexcept {
  constexpr int width = lanes<T, A>;
  for (index_t t = 0; t < count; t += width)
    load_transposed_by<row_panels<T>::template pitch<A>, T, A>(rows[t], rows.stride,
                                                               static_cast<int>(std::min<index_t>(width, count - t)),
                                                               to.features, factor, to.template panel<A>(t / width));
}

}  // namespace detail
HEED_ARCH_END
