/// Square transposition in registers.
#pragma once

#include <heed/simd/pack.hpp>

#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// One butterfly stage: exchange the off-diagonal blocks of size Half x Half between rows i and i + Half.
template <int Half, class Native, int... Lane>
HEED_INLINE void exchange_blocks(Native& a, Native& b, std::integer_sequence<int, Lane...>) noexcept {
  constexpr int n = sizeof...(Lane);
  const Native low = __builtin_shufflevector(a, b, ((Lane & Half) ? n + Lane - Half : Lane)...);
  const Native high = __builtin_shufflevector(a, b, ((Lane & Half) ? n + Lane : Lane + Half)...);
  a = low;
  b = high;
}

template <int Half, class Native, int Lanes>
HEED_INLINE void transpose_stage(Native (&rows)[Lanes]) noexcept {
  if constexpr (Half < Lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < Lanes; ++i)
      if ((i & Half) == 0) exchange_blocks<Half>(rows[i], rows[i + Half], std::make_integer_sequence<int, Lanes>{});
    transpose_stage<Half * 2>(rows);
  }
}

/// The first two stages of vectors of floats, where one instruction interleaves halves of 16 bytes.
template <class Native, int... Lane>
HEED_INLINE void transpose_quads(Native* rows, std::integer_sequence<int, Lane...>) noexcept {
  constexpr int n = sizeof...(Lane);
  // Lane 4 q + i of the low half is lane 4 q + i / 2 of the one row or the other.
  const auto low = [](Native a, Native b) {
    return __builtin_shufflevector(a, b, (Lane / 4 * 4 + Lane % 4 / 2 + (Lane % 2) * n)...);
  };
  const auto high = [](Native a, Native b) {
    return __builtin_shufflevector(a, b, (Lane / 4 * 4 + Lane % 4 / 2 + 2 + (Lane % 2) * n)...);
  };
  const auto first = [](Native a, Native b) {
    return __builtin_shufflevector(a, b, (Lane / 4 * 4 + Lane % 2 + (Lane % 4 / 2) * n)...);
  };
  const auto last = [](Native a, Native b) {
    return __builtin_shufflevector(a, b, (Lane / 4 * 4 + Lane % 2 + 2 + (Lane % 4 / 2) * n)...);
  };
#pragma GCC unroll 4
  for (int i = 0; i < n; i += 4) {
    const Native a = low(rows[i], rows[i + 1]), b = high(rows[i], rows[i + 1]);
    const Native c = low(rows[i + 2], rows[i + 3]), d = high(rows[i + 2], rows[i + 3]);
    rows[i] = first(a, c);
    rows[i + 1] = last(a, c);
    rows[i + 2] = first(b, d);
    rows[i + 3] = last(b, d);
  }
}

/// rows[i] lane j becomes rows[j] lane i. log2(lanes) * lanes shuffles.
template <class T, class A>
HEED_INLINE void transpose(pack<T, A> (&rows)[static_cast<std::size_t>(lanes<T, A>)]) noexcept {
  constexpr int n = pack<T, A>::lanes;
  typedef T native __attribute__((vector_size(sizeof(T) * n)));
  using batch_type = typename pack<T, A>::batch_type;
  native r[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) r[i] = __builtin_bit_cast(native, rows[i].value.data);
  if constexpr (sizeof(T) == 4 && n >= 4) {
    transpose_quads(r, std::make_integer_sequence<int, n>{});
    transpose_stage<4>(r);
  } else {
    transpose_stage<1>(r);
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i)
    rows[i] = pack<T, A>(batch_type(__builtin_bit_cast(typename batch_type::register_type, r[i])));
}

struct add_vectors {
  template <class Native>
  HEED_INLINE Native operator()(Native a, Native b) const noexcept {
    return a + b;
  }
};
struct larger_of_vectors {
  template <class Native>
  HEED_INLINE Native operator()(Native a, Native b) const noexcept {
    return a > b ? a : b;
  }
};

/// Folds neighbors of `Count` vectors, whose lanes that differ in bit Half belong together, until one vector is left.
template <int Half, int Count, class Native, int Lanes, class Fold>
HEED_INLINE void fold_stage(Native (&rows)[Lanes], Fold fold) noexcept {
  if constexpr (Count > 1) {
#pragma GCC unroll 8
    for (int i = 0; i < Count / 2; ++i) {
      Native a = rows[2 * i], b = rows[2 * i + 1];
      exchange_blocks<Half>(a, b, std::make_integer_sequence<int, Lanes>{});
      rows[i] = fold(a, b);
    }
    fold_stage<Half * 2, Count / 2>(rows, fold);
  }
}

/// Lane i of the result is what the lanes of rows[i] fold to. 2 (lanes - 1) shuffles.
template <class T, class A, class Fold>
HEED_INLINE pack<T, A> fold_each(const pack<T, A>* rows, Fold fold) noexcept {
  constexpr int n = pack<T, A>::lanes;
  typedef T native __attribute__((vector_size(sizeof(T) * n)));
  using batch_type = typename pack<T, A>::batch_type;
  native r[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) r[i] = __builtin_bit_cast(native, rows[i].value.data);
  fold_stage<1, n>(r, fold);
  return pack<T, A>(batch_type(__builtin_bit_cast(typename batch_type::register_type, r[0])));
}

/// Lane i of the result is the sum of the lanes of rows[i], or the largest of them.
template <class T, class A>
HEED_INLINE pack<T, A> sum_each(const pack<T, A>* rows) noexcept {
  return fold_each(rows, add_vectors{});
}
template <class T, class A>
HEED_INLINE pack<T, A> largest_each(const pack<T, A>* rows) noexcept {
  return fold_each(rows, larger_of_vectors{});
}

/// Whether load_square_transposed has a shorter way than loading rows and transposing them.
template <class T, class A>
inline constexpr bool loads_squares =
#if defined(__AVX512F__)
    has_avx512<A> && std::is_same_v<T, float>;
#else
    false;
#endif

#if defined(__AVX512F__)
/// to[i] lane j = rows[j * stride + i]: a square of memory, transposed. Quarters of rows are loaded to where the first
/// two stages would move them: half the shuffles.
template <class A>
HEED_INLINE void load_square_transposed(const float* rows, index_t stride, pack<float, A> (&to)[16]) noexcept {
  typedef float native __attribute__((vector_size(64)));
  using batch_type = typename pack<float, A>::batch_type;
#pragma GCC unroll 4
  for (int c = 0; c < 16; c += 4) {
    native r[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* const from = rows + i * stride + c;
      __m512 quarters = _mm512_zextps128_ps512(_mm_loadu_ps(from));
      quarters = _mm512_maskz_insertf32x4(0xffff, quarters, _mm_loadu_ps(from + 4 * stride), 1);
      quarters = _mm512_maskz_insertf32x4(0xffff, quarters, _mm_loadu_ps(from + 8 * stride), 2);
      quarters = _mm512_maskz_insertf32x4(0xffff, quarters, _mm_loadu_ps(from + 12 * stride), 3);
      r[i] = __builtin_bit_cast(native, quarters);
    }
    constexpr auto lane = std::make_integer_sequence<int, 16>{};
    exchange_blocks<1>(r[0], r[1], lane);
    exchange_blocks<1>(r[2], r[3], lane);
    exchange_blocks<2>(r[0], r[2], lane);
    exchange_blocks<2>(r[1], r[3], lane);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) to[c + i] = pack<float, A>(batch_type(__builtin_bit_cast(__m512, r[i])));
  }
}
#endif

}  // namespace detail
HEED_ARCH_END
