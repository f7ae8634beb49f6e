/// Matrix products of a chunk of tokens: rows are tokens or state rows, vectors are features.
#pragma once

#include <heed/kernel/prefetch.hpp>
#include <heed/kernel/tile_panels.hpp>
#include <heed/simd/transpose.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Rows of numbers at a fixed distance: of a tensor, or in scratch.
template <class T>
struct row_span {
  T* data = nullptr;
  index_t stride = 0;

  HEED_INLINE T* operator[](index_t row) const noexcept { return data + row * stride; }
  HEED_INLINE row_span from(index_t row) const noexcept { return {data + row * stride, stride}; }
  HEED_INLINE operator row_span<const T>() const noexcept
    requires(!std::is_const_v<T>)
  {
    return {data, stride};
  }
};

/// Vectors that hold `features` numbers.
template <class T, class A>
HEED_INLINE int vectors_of(index_t features) noexcept {
  return static_cast<int>((features + lanes<T, A> - 1) / lanes<T, A>);
}

/// Which terms k of a product a row takes: all, k <= row, or k >= row.
enum class band { all, lower, upper };

/// The terms sum_k scalars(row, k) * vectors[k] of a product. Where a band cuts a block of rows, the scalars outside of
/// it must be 0.
template <band Band, class T, class RowStep, class DepthStep>
struct product_terms {
  const T* scalars;
  RowStep row_step;
  DepthStep depth_step;
  row_span<const T> vectors;
  index_t depth;

  template <int Rows, int Vectors, class A>
  HEED_INLINE void add_to(pack<T, A> (&sums)[Rows][Vectors], index_t row, int vector) const noexcept {
    const index_t first = Band == band::upper ? row : 0;
    const index_t last = Band == band::lower ? std::min(row + Rows, depth) : depth;
    add_outer_product(sums, detail::scalars<Rows>(scalars + row * row_step + first * depth_step, row_step, depth_step),
                      vectors[first] + vector * lanes<T, A>, vectors.stride, last - first);
  }
};

/// No terms.
struct no_terms {
  template <int Rows, int Vectors, class T, class A>
  HEED_INLINE void add_to(pack<T, A> (&)[Rows][Vectors], index_t, int) const noexcept {}
};

/// sum_k rows[row][k] * vectors[k], with k < depth, or up to the row itself.
template <band Band = band::all, class T>
auto times(row_span<const T> rows, std::type_identity_t<row_span<const T>> vectors, index_t depth) noexcept {
  return product_terms<Band, T, index_t, unit_step>{rows.data, rows.stride, {}, vectors, depth};
}

/// sum_k columns[k][row] * vectors[k], with k < depth, or from the row itself on.
template <band Band = band::all, class T>
auto transposed_times(row_span<const T> columns, std::type_identity_t<row_span<const T>> vectors,
                      index_t depth) noexcept {
  return product_terms<Band, T, unit_step, index_t>{columns.data, {}, columns.stride, vectors, depth};
}

/// Rows or features [low, high) of a matrix. Ranges of vectors start with one.
struct index_range {
  index_t low, high;
};

/// Splits rows of a chunk into register blocks and calls f(integral_constant<rows>, first row). Chunks and heads are
/// multiples of 4 as a rule, and larger blocks would leave rows over.
template <int Vectors, class T, class A, class F>
HEED_INLINE void for_chunk_rows(index_t rows, F f) {
  if constexpr (Vectors == 1) {
    for_rows<1, T, A>(rows, f);
  } else {
    index_t r = 0;
    for (; r + 4 <= rows; r += 4) f(std::integral_constant<int, 4>{}, r);
    for (; r < rows; ++r) f(std::integral_constant<int, 1>{}, r);
  }
}

/// Splits vectors [low, high) into register blocks and calls f(integral_constant<vectors>, first vector). Two vectors
/// that are left over make a block of their own: rows of one vector load as often as they multiply.
template <class T, class A, class F>
HEED_INLINE void for_chunk_vectors(int low, int high, F f) {
  constexpr int most = tile_shape<T, A>::vectors;
  for (; low + most <= high; low += most) f(std::integral_constant<int, most>{}, low);
  if constexpr (most > 2)
    for (; low + 2 <= high; low += 2) f(std::integral_constant<int, 2>{}, low);
  for (; low < high; ++low) f(std::integral_constant<int, 1>{}, low);
}

/// For some rows, and the vectors v that hold some features: emit(row, v, between(row, v, first) + second). Meanwhile
/// `ahead` calls what is needed next.
template <class T, class A, class First, class Between, class Second, class Emit>
HEED_NOINLINE void sum_products(index_range of_rows, index_range features, const First& first, const Between& between,
                                const Second& second, const Emit& emit, prefetcher& ahead) noexcept {
  using P = pack<T, A>;
  for_chunk_vectors<T, A>(static_cast<int>(features.low / P::lanes), vectors_of<T, A>(features.high),
                          [&](auto vectors, int v) {
                            constexpr int some = decltype(vectors)::value;
                            for_chunk_rows<some, T, A>(of_rows.high - of_rows.low, [&](auto rows, index_t offset) {
                              constexpr int together = decltype(rows)::value;
                              const index_t row = of_rows.low + offset;
                              P sums[together][some];
                              first.add_to(sums, row, v);
#pragma GCC unroll 16
                              for (int r = 0; r < together; ++r)
#pragma GCC unroll 8
                                for (int i = 0; i < some; ++i) sums[r][i] = between(row + r, v + i, sums[r][i]);
                              second.add_to(sums, row, v);
#pragma GCC unroll 16
                              for (int r = 0; r < together; ++r)
#pragma GCC unroll 8
                                for (int i = 0; i < some; ++i) emit(row + r, v + i, sums[r][i]);
                              ahead.issue(together * some);
                            });
                          });
}

/// The same of one product: emit(row, v, init(row, v) + terms).
template <class T, class A, class Init, class Terms, class Emit>
HEED_INLINE void sum_product(index_range rows, index_range features, const Init& init, const Terms& terms,
                             const Emit& emit, prefetcher& ahead) noexcept {
  sum_products<T, A>(
      rows, features, no_terms{}, [&](index_t row, int v, pack<T, A>) { return init(row, v); }, terms, emit, ahead);
}

template <class T, class A, class Init, class Terms, class Emit>
HEED_INLINE void sum_product(index_range rows, index_range features, const Init& init, const Terms& terms,
                             const Emit& emit) noexcept {
  prefetcher nothing;
  sum_product<T, A>(rows, features, init, terms, emit, nothing);
}

/// Rows of a chunk, transposed: panels of one vector of rows each, [feature][row], two of which lie side by side.
template <class T>
struct row_panels {
  static constexpr int together = 2;

  T* data = nullptr;
  index_t features = 0;

  template <class A>
  static constexpr int pitch = together * lanes<T, A>;
  template <class A>
  HEED_INLINE T* panel(index_t number) const noexcept {
    return data + number / together * features * pitch<A> + number % together * lanes<T, A>;
  }
};

/// products[t][j] = a_t . b_j for j <= t, of some rows of a; 0 above, within the same vector. `b` is in panels.
/// What lies above and outside of these vectors is left alone.
template <class T, class A>
HEED_NOINLINE void lower_products(row_span<const T> a, row_panels<T> b, index_range of_rows, row_span<T> products,
                                  prefetcher& ahead) noexcept {
  using P = pack<T, A>;
  constexpr int width = P::lanes;
  alignas(64) T counting[width];
  for (int i = 0; i < width; ++i) counting[i] = T(i);
  const P lane = P::load_aligned(counting);
  const auto multiply = [&](auto vectors, index_t panel, index_t begin, index_t end) {
    constexpr int some = decltype(vectors)::value;
    for_chunk_rows<some, T, A>(end - begin, [&](auto rows, index_t offset) {
      const index_t row = begin + offset;
      outer_product<decltype(rows)::value, some, T, A>(
          scalars<decltype(rows)::value>(a[row], a.stride, unit_step{}), b.template panel<A>(panel),
          fixed_step<row_panels<T>::template pitch<A>>{}, b.features, [](int, int) { return P(T(0)); },
          [&](int r, int v, P sum) {
            const index_t diagonal = row + r - (panel + v) * width;
            if (v == some - 1 && diagonal < width - 1) sum = select(lane <= P(T(diagonal)), sum, P(T(0)));
            sum.store_aligned(products[row + r] + (panel + v) * width);
          });
      ahead.issue(decltype(rows)::value * some);
    });
  };
  // The first rows of two panels see the first alone.
  static_assert(row_panels<T>::together == 2);
  for (index_t panel = 0; panel * width < of_rows.high; panel += 2) {
    const index_t first = std::max(of_rows.low, panel * width);
    const index_t both = std::clamp((panel + 1) * width, first, of_rows.high);
    multiply(std::integral_constant<int, 1>{}, panel, first, both);
    multiply(std::integral_constant<int, 2>{}, panel, both, of_rows.high);
  }
}

}  // namespace detail
HEED_ARCH_END
