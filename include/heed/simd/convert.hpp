/// Loads and stores that convert between storage types and the type a kernel computes in.
#pragma once

#include <heed/core/float16.hpp>
#include <heed/simd/pack.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// One register of T from consecutive elements of a storage type. Exact.
template <class T, class A, class S>
HEED_INLINE pack<T, A> load_as(const S* from) noexcept {
  constexpr int n = lanes<T, A>;
  if constexpr (std::is_same_v<S, T>) {
    return pack<T, A>::load(from);
  } else {
#if defined(__AVX512F__)
    if constexpr (has_avx512<A> && std::is_same_v<T, float> && sizeof(S) == 2) {
      const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      if constexpr (std::is_same_v<S, bfloat16>)
        return {typename pack<T, A>::batch_type(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)))};
      else
        return {typename pack<T, A>::batch_type(_mm512_cvtph_ps(half))};
    }
#endif
#if defined(__AVX2__)
    if constexpr (std::is_same_v<T, float> && n == 8 && sizeof(S) == 2 && std::is_base_of_v<xsimd::avx2, A>) {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      if constexpr (std::is_same_v<S, bfloat16>)
        return {typename pack<T, A>::batch_type(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)))};
#if defined(__F16C__)
      else
        return {typename pack<T, A>::batch_type(_mm256_cvtph_ps(half))};
#endif
    }
#endif
    alignas(64) T lane[n];
    for (int i = 0; i < n; ++i) lane[i] = static_cast<T>(static_cast<float>(from[i]));
    return pack<T, A>::load_aligned(lane);
  }
}

/// The first n lanes from memory, the others 0.
template <class T, class A, class S>
HEED_INLINE pack<T, A> load_first_as(const S* from, int n) noexcept {
  alignas(64) T lane[lanes<T, A>] = {};
  for (int i = 0; i < n; ++i) lane[i] = static_cast<T>(from[i]);
  return pack<T, A>::load_aligned(lane);
}

/// One register to consecutive elements of a storage type, rounded to nearest even.
template <class S, class T, class A>
HEED_INLINE void store_as(S* to, pack<T, A> value) noexcept {
  if constexpr (std::is_same_v<S, T>) {
    value.store(to);
  } else {
    alignas(64) T lane[lanes<T, A>];
    value.store_aligned(lane);
    for (int i = 0; i < lanes<T, A>; ++i) to[i] = S(lane[i]);
  }
}

template <class S, class T, class A>
HEED_INLINE void store_first_as(S* to, pack<T, A> value, int n) noexcept {
  alignas(64) T lane[lanes<T, A>];
  value.store_aligned(lane);
  for (int i = 0; i < n; ++i) to[i] = static_cast<S>(lane[i]);
}

/// The same value, kept in a register. g++ otherwise turns a loaded register back into a memory operand of every
/// multiply-add that uses it, and the load ports become the limit. Only where there are registers to spare.
template <class T, class A>
HEED_INLINE pack<T, A> keep_in_register(pack<T, A> p) noexcept {
#if !defined(__clang__) && defined(__AVX512F__)
  if constexpr (has_avx512<A>) {
    auto bits = p.value.data;
    asm("" : "+v"(bits));
    return {typename pack<T, A>::batch_type(bits)};
  }
#endif
  return p;
}

}  // namespace detail
HEED_ARCH_END
