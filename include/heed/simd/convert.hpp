/// Loads and stores that convert between storage types and the type a kernel computes in.
#pragma once

#include <heed/core/float16.hpp>
#include <heed/simd/pack.hpp>

#include <cstdint>
#include <cstring>

HEED_ARCH_BEGIN
namespace detail {

#if defined(__AVX2__)
/// 256-bit registers, with the integer instructions of AVX2.
template <class A>
inline constexpr bool is_avx2 = lanes<float, A> == 8 && std::is_base_of_v<xsimd::avx2, A>;

template <class A>
HEED_INLINE pack<float, A> from_int32(__m256i codes) noexcept {
  return {typename pack<float, A>::batch_type(_mm256_cvtepi32_ps(codes))};
}
#endif
#if defined(__AVX512F__)
template <class A>
HEED_INLINE pack<float, A> from_int32(__m512i codes) noexcept {
  return {typename pack<float, A>::batch_type(_mm512_maskz_cvtepi32_ps(0xffff, codes))};
}
#endif

/// One register of T from consecutive elements of a storage type, or from codes of 8 bits. Exact.
template <class T, class A, class S>
HEED_INLINE pack<T, A> load_as(const S* from) noexcept {
  constexpr int n = lanes<T, A>;
  if constexpr (std::is_same_v<S, T>) {
    return pack<T, A>::load(from);
  } else {
#if defined(__AVX512F__)
    if constexpr (has_avx512<A> && std::is_same_v<T, float> && sizeof(S) == 2) {
      const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      // Zero-masked forms: the others are built on an undefined register, which g++ 12 warns about.
      constexpr __mmask16 every = 0xffff;
      if constexpr (std::is_same_v<S, bfloat16>)
        return {typename pack<T, A>::batch_type(
            _mm512_castsi512_ps(_mm512_maskz_slli_epi32(every, _mm512_maskz_cvtepu16_epi32(every, half), 16)))};
      else
        return {typename pack<T, A>::batch_type(_mm512_maskz_cvtph_ps(every, half))};
    }
    if constexpr (has_avx512<A> && std::is_same_v<T, float> && std::is_same_v<S, std::int8_t>) {
      const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      return {from_int32<A>(_mm512_maskz_cvtepi8_epi32(0xffff, codes))};
    }
#endif
#if defined(__AVX2__)
    if constexpr (std::is_same_v<T, float> && sizeof(S) == 2 && is_avx2<A>) {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      if constexpr (std::is_same_v<S, bfloat16>)
        return {
            typename pack<T, A>::batch_type(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)))};
#if defined(__F16C__)
      else
        return {typename pack<T, A>::batch_type(_mm256_cvtph_ps(half))};
#endif
    }
    if constexpr (is_avx2<A> && std::is_same_v<T, float> && std::is_same_v<S, std::int8_t>) {
      const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
      return {from_int32<A>(_mm256_cvtepi8_epi32(codes))};
    }
#endif
    alignas(64) T lane[n];
    for (int i = 0; i < n; ++i) lane[i] = static_cast<T>(static_cast<float>(from[i]));
    return pack<T, A>::load_aligned(lane);
  }
}

/// One register of numbers 0 to 15 from as many nibbles: the low one of each byte first, then its high one.
template <class T, class A>
HEED_INLINE pack<T, A> load_nibble_pairs(const std::uint8_t* from) noexcept {
  constexpr int n = lanes<T, A>;
  // A byte b in each 64 bits becomes b & 15 and b >> 4 in 32 bits each.
#if defined(__AVX512F__)
  if constexpr (has_avx512<A> && std::is_same_v<T, float>) {
    const __m512i bytes = _mm512_maskz_cvtepu8_epi64(0xff, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    const __m512i nibbles = _mm512_or_si512(bytes, _mm512_maskz_slli_epi64(0xff, bytes, 28));
    return from_int32<A>(_mm512_and_si512(nibbles, _mm512_set1_epi32(15)));
  }
#endif
#if defined(__AVX2__)
  if constexpr (is_avx2<A> && std::is_same_v<T, float>) {
    int four_bytes;
    std::memcpy(&four_bytes, from, sizeof four_bytes);
    const __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four_bytes));
    const __m256i nibbles = _mm256_or_si256(bytes, _mm256_slli_epi64(bytes, 28));
    return from_int32<A>(_mm256_and_si256(nibbles, _mm256_set1_epi32(15)));
  }
#endif
  alignas(64) T lane[n];
  for (int i = 0; i < n; ++i) lane[i] = static_cast<T>((from[i / 2] >> (i % 2 * 4)) & 15);
  return pack<T, A>::load_aligned(lane);
}

/// One register of numbers 0 to 15 from the low (shift 0) or the high (shift 4) nibbles of as many bytes.
template <class T, class A>
HEED_INLINE pack<T, A> load_nibbles(const std::uint8_t* from, int shift) noexcept {
  constexpr int n = lanes<T, A>;
#if defined(__AVX512F__)
  if constexpr (has_avx512<A> && std::is_same_v<T, float>) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m128i nibbles = _mm_and_si128(_mm_srl_epi16(bytes, _mm_cvtsi32_si128(shift)), _mm_set1_epi8(15));
    return from_int32<A>(_mm512_maskz_cvtepu8_epi32(0xffff, nibbles));
  }
#endif
#if defined(__AVX2__)
  if constexpr (is_avx2<A> && std::is_same_v<T, float>) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m128i nibbles = _mm_and_si128(_mm_srl_epi16(bytes, _mm_cvtsi32_si128(shift)), _mm_set1_epi8(15));
    return from_int32<A>(_mm256_cvtepu8_epi32(nibbles));
  }
#endif
  alignas(64) T lane[n];
  for (int i = 0; i < n; ++i) lane[i] = static_cast<T>((from[i] >> shift) & 15);
  return pack<T, A>::load_aligned(lane);
}

/// The first n lanes from memory, the others 0.
template <class T, class A, class S>
HEED_INLINE pack<T, A> load_first_as(const S* from, int n) noexcept {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (has_avx512<A> && std::is_same_v<T, float> && std::is_same_v<S, float>) {
    return {typename pack<T, A>::batch_type(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), from))};
  } else if constexpr (has_avx512<A> && std::is_same_v<T, float> && sizeof(S) == 2) {
    alignas(32) S row[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(row),
                       _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1u), from));
    return load_as<T, A>(row);
  }
#endif
  alignas(64) T lane[lanes<T, A>] = {};
  for (int i = 0; i < n; ++i) lane[i] = static_cast<T>(from[i]);
  return pack<T, A>::load_aligned(lane);
}

/// The bits of bfloat16 in the upper half of each lane: rounded to nearest even, NaN quieted.
template <class A>
HEED_INLINE batch<std::uint32_t, A> bfloat16_bits(pack<float, A> value) noexcept {
  using bits_batch = batch<std::uint32_t, A>;
  const bits_batch bits = reinterpret_batch<bits_batch>(value.value);
  const bits_batch rounded = bits + (bits_batch(0x7fffu) + ((bits >> 16) & bits_batch(1u)));
  // xsimd 8 cannot select 32-bit integers under AVX-512 at -O0, floats it can.
  using float_batch = batch<float, A>;
  const auto quieted = reinterpret_batch<float_batch>(bits | bits_batch(0x400000u));
  return reinterpret_batch<bits_batch>(
      select((value != value).value, quieted, reinterpret_batch<float_batch>(rounded)));
}

/// One register to consecutive elements of a storage type, rounded to nearest even.
template <class S, class T, class A>
HEED_INLINE void store_as(S* to, pack<T, A> value) noexcept {
  if constexpr (std::is_same_v<S, T>) {
    value.store(to);
  } else {
    constexpr int n = lanes<T, A>;
    if constexpr (std::is_same_v<S, bfloat16> && std::is_same_v<T, float>) {
      const auto bits = bfloat16_bits(value) >> 16;
#if defined(__AVX512F__)
      if constexpr (has_avx512<A>) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(0xffff, bits.data));
        return;
      }
#endif
      alignas(64) std::uint32_t lane[n];
      bits.store_aligned(lane);
      for (int i = 0; i < n; ++i) to[i] = bfloat16::from_bits(static_cast<std::uint16_t>(lane[i]));
      return;
    }
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<S, float16> && std::is_same_v<T, float> && has_avx512<A>) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          _mm512_maskz_cvtps_ph(0xffff, value.value, _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#endif
#if defined(__F16C__)
    if constexpr (std::is_same_v<S, float16> && std::is_same_v<T, float> && n == 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value.value, _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#endif
    alignas(64) T lane[n];
    value.store_aligned(lane);
    for (int i = 0; i < n; ++i) to[i] = S(lane[i]);
  }
}

template <class S, class T, class A>
HEED_INLINE void store_first_as(S* to, pack<T, A> value, int n) noexcept {
  alignas(64) T lane[lanes<T, A>];
  value.store_aligned(lane);
  for (int i = 0; i < n; ++i) to[i] = static_cast<S>(lane[i]);
}

/// The same value, kept in a register. g++ otherwise turns a loaded register back into a memory operand of every
/// multiply-add that uses it, and the load ports become the limit. Only if `Used` registers, all that the loop around
/// it needs at a time, are there.
template <int Used = 32, class T, class A>
HEED_INLINE pack<T, A> keep_in_register(pack<T, A> p) noexcept {
#if !defined(__clang__) && defined(__AVX512F__)
  if constexpr (has_avx512<A> && Used <= register_count<A>) {
    auto bits = p.value.data;
    asm("" : "+v"(bits));
    return {typename pack<T, A>::batch_type(bits)};
  }
#elif !defined(__clang__) && defined(__AVX2__) && defined(__FMA__)
  if constexpr (sizeof(p.value.data) == 32 && Used <= register_count<A>) {
    auto bits = p.value.data;
    asm("" : "+x"(bits));
    return {typename pack<T, A>::batch_type(bits)};
  }
#endif
  return p;
}

/// The same pointer, as one register: the compiler cannot tell how it was made, and so not replace it by others.
template <class T>
HEED_INLINE const T* keep_in_register(const T* p) noexcept {
  asm("" : "+r"(p));
  return p;
}

}  // namespace detail
HEED_ARCH_END
