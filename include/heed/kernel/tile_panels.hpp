/// The products of a transposed tile: rows read where they are, times vectors of queries.
#pragma once

#include <heed/kernel/outer_product.hpp>
#include <heed/kernel/tile_shape.hpp>
#include <heed/simd/math.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Splits vectors [low, high) into register blocks and calls f(integral_constant<vectors>, first vector).
template <class T, class A, class F>
HEED_INLINE void for_blocks(int low, int high, F f) {
  constexpr int most = tile_shape<T, A>::vectors;
  for (; low + most <= high; low += most) f(std::integral_constant<int, most>{}, low);
  for (; low < high; ++low) f(std::integral_constant<int, 1>{}, low);
}

/// Splits `rows` into register blocks of at most `Most` and calls f(integral_constant<rows>, first row). Few sizes: each
/// is compiled. Large blocks leave so many rows over that a size in between pays, and few rows of one vector wait for
/// each other.
template <int Vectors, class T, class A, int Most = 16, class F>
HEED_INLINE void for_rows(index_t rows, F f) {
  using shape = tile_shape<T, A>;
  constexpr int most = std::min(Most, shape::rows(Vectors)), some = Vectors == 1 ? 4 : 2;
  index_t r = 0;
  for (; r + most <= rows; r += most) f(std::integral_constant<int, most>{}, r);
  if constexpr (shape::many_registers || Vectors == 1)
    for (; r + some <= rows; r += some) f(std::integral_constant<int, some>{}, r);
  for (; r < rows; ++r) f(std::integral_constant<int, 1>{}, r);
}

/// What the products of rows with each vector of lanes are added to: the same for every row, and a bias of every pair if
/// there is one, natural where products are base 2. One panel for both: registers are filled for many keys at a time.
template <class T, class A>
struct product_start {
  const T* start;  // [lane]
  const T* bias;   // [row][lane], or null

  HEED_INLINE pack<T, A> operator()(index_t j, int v) const noexcept {
    using P = pack<T, A>;
    const P first = P::load_aligned(start + v * P::lanes);
    if (bias == nullptr) return first;
    return fma(P::load_aligned(bias + j * tile_shape<T, A>::queries + v * P::lanes), P(log2_e<T>), first);
  }
};

/// Calls emit(j, v, start(j, v) + row_j . lane's own row) for `count` rows and each vector v of lanes, while the sums
/// are in registers. `lanes` holds [feature][lane].
template <int Vectors, class T, class A, class Rows, class Emit>
HEED_INLINE void row_products(Rows rows, int count, const T* lanes, index_t features, product_start<T, A> start,
                              Emit emit) noexcept {
  using P = pack<T, A>;
  // Each row that may be anywhere takes an address register.
  constexpr int most = are_strided<Rows> ? 16 : 8;
  for_rows<Vectors, T, A, most>(count, [&](auto some, index_t r) {
    outer_product<decltype(some)::value, Vectors, T, A>(
        along<decltype(some)::value>(rows.from(r)), lanes, fixed_step<tile_shape<T, A>::queries>{}, features,
        [&](int i, int v) { return start(r + i, v); }, [&](int i, int v, P sum) { emit(r + i, v, sum); });
  });
}

/// scores[j][lane] = start(j, lane) + k_j . q_lane for `count` keys.
template <int Vectors, class T, class A, class Rows>
HEED_NOINLINE void key_panel(Rows keys, int count, const T* queries, index_t features, product_start<T, A> start,
                             T* scores) noexcept {
  using P = pack<T, A>;
  row_products<Vectors, T, A>(keys, count, queries, features, start, [&](index_t j, int v, P s) {
    s.store_aligned(scores + j * tile_shape<T, A>::queries + v * P::lanes);
  });
}

/// The same of what fold(total[lane], z) makes of each score z, and of the totals.
template <int Vectors, class T, class A, class Rows, class Fold>
HEED_INLINE void folded_panel(Rows keys, int count, const T* queries, index_t features, product_start<T, A> start,
                              T* total, T* scores, Fold fold) noexcept {
  using P = pack<T, A>;
  P reached[Vectors];
  for (int v = 0; v < Vectors; ++v) reached[v] = P::load_aligned(total + v * P::lanes);
  row_products<Vectors, T, A>(keys, count, queries, features, start, [&](index_t j, int v, P z) {
    fold(reached[v], z).store_aligned(scores + j * tile_shape<T, A>::queries + v * P::lanes);
  });
  for (int v = 0; v < Vectors; ++v) reached[v].store_aligned(total + v * P::lanes);
}

/// Scores, and total[lane] becomes the largest of them, if it is not larger.
template <int Vectors, class T, class A, class Rows>
HEED_NOINLINE void logit_panel(Rows keys, int count, const T* queries, index_t features, product_start<T, A> start,
                               T* total, T* scores) noexcept {
  using P = pack<T, A>;
  folded_panel<Vectors, T, A>(keys, count, queries, features, start, total, scores, [](P& most, P z) {
    most = max(z, most);
    return z;
  });
}

/// weights[j][lane] = 2^(start(j, lane) + k_j . q_lane), added to total[lane]: exponentials of what is in registers.
template <int Vectors, class T, class A, class Rows>
HEED_NOINLINE void weight_panel(Rows keys, int count, const T* queries, index_t features, product_start<T, A> start,
                                T* total, T* weights) noexcept {
  using P = pack<T, A>;
  folded_panel<Vectors, T, A>(keys, count, queries, features, start, total, weights, [](P& sum, P z) {
    const P weight = weight_of(z);
    sum += weight;
    return weight;
  });
}

/// Rows of vectors, `pitch` apart, that sums go on from: the output itself, or the same row again and again.
template <class T>
struct sums_before {
  const T* data;
  index_t pitch;
};

/// Sums of nothing.
template <class T, class A>
HEED_INLINE sums_before<T> no_sums() noexcept {
  alignas(64) static constexpr T zeros[tile_shape<T, A>::queries] = {};
  return {zeros, 0};
}

/// output[e][lane] = before[e][lane] + sum_j v_j[e] weights[j][lane] over `count` values.
template <int Vectors, class T, class A, class Rows>
HEED_NOINLINE void value_panel(Rows values, int count, const T* weights, index_t features, sums_before<T> before,
                               T* output) noexcept {
  using P = pack<T, A>;
  constexpr int pitch = tile_shape<T, A>::queries;
  for_rows<Vectors, T, A>(features, [&](auto some, index_t e) {
    outer_product<decltype(some)::value, Vectors, T, A>(
        across<decltype(some)::value>(values, e), weights, fixed_step<pitch>{}, count,
        [&](int i, int v) { return P::load_aligned(before.data + (e + i) * before.pitch + v * P::lanes); },
        [&](int i, int v, P o) { o.store_aligned(output + (e + i) * pitch + v * P::lanes); });
  });
}

/// The product of value_panel, one multiply-add at a time, leaving out pairs of weight 0.
template <class T, class A, class Rows>
HEED_NOINLINE void value_panel_carefully(Rows values, int count, const T* weights, int vectors, index_t features,
                                         T* output) noexcept {
  using P = pack<T, A>;
  constexpr int pitch = tile_shape<T, A>::queries;
  for (int v = 0; v < vectors; ++v)
    for (int j = 0; j < count; ++j) {
      const P p = P::load_aligned(weights + j * pitch + v * P::lanes);
      const auto counts = p != P(T(0));
      for (index_t e = 0; e < features; ++e) {
        T* const o = output + e * pitch + v * P::lanes;
        const P before = P::load_aligned(o);
        select(counts, fma(P(values[j][e]), p, before), before).store_aligned(o);
      }
    }
}

template <class T, class A, class Rows>
bool all_finite(Rows rows, int count, index_t features) noexcept {
  using P = pack<T, A>;
  // x * 0 is 0 for finite x and NaN otherwise.
  P zeros(T(0));
  T tail = T(0);
  for (int j = 0; j < count; ++j) {
    const T* const row = rows[j];
    index_t e = 0;
    for (; e + P::lanes <= features; e += P::lanes) zeros = fma(P::load(row + e), P(T(0)), zeros);
    for (; e < features; ++e) tail += row[e] * T(0);
  }
  return all(zeros == P(T(0))) && tail == T(0);
}

}  // namespace detail
HEED_ARCH_END
