/// The gather instructions of AVX2 and AVX-512, one overload for each kind of register.
///
/// gather(base, at, wanted, otherwise): base[at] in the lanes that are wanted, `otherwise` in the rest, for which
/// nothing is read. std::int32_t is widened to the integers of the lanes.
#pragma once

#include <heed/simd/arch.hpp>

#include <cstdint>

HEED_ARCH_BEGIN
namespace detail {

#if defined(__AVX512F__)
HEED_INLINE __m512 gather(const float* base, __m512i at, __mmask16 wanted, __m512 otherwise) noexcept {
  return _mm512_mask_i32gather_ps(otherwise, wanted, at, base, 4);
}
HEED_INLINE __m512d gather(const double* base, __m512i at, __mmask8 wanted, __m512d otherwise) noexcept {
  return _mm512_mask_i64gather_pd(otherwise, wanted, at, base, 8);
}
HEED_INLINE __m512i gather(const std::int32_t* base, __m512i at, __mmask16 wanted, __m512i otherwise) noexcept {
  return _mm512_mask_i32gather_epi32(otherwise, wanted, at, base, 4);
}
HEED_INLINE __m512i gather(const std::int32_t* base, __m512i at, __mmask8 wanted, __m512i otherwise) noexcept {
  const __m256i narrow = _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), wanted, at, base, 4);
  return _mm512_mask_cvtepi32_epi64(otherwise, wanted, narrow);
}
#endif

#if defined(__AVX2__)
HEED_INLINE __m256 gather(const float* base, __m256i at, __m256 wanted, __m256 otherwise) noexcept {
  return _mm256_mask_i32gather_ps(otherwise, base, at, wanted, 4);
}
HEED_INLINE __m256d gather(const double* base, __m256i at, __m256d wanted, __m256d otherwise) noexcept {
  return _mm256_mask_i64gather_pd(otherwise, base, at, wanted, 8);
}
HEED_INLINE __m256i gather(const std::int32_t* base, __m256i at, __m256 wanted, __m256i otherwise) noexcept {
  return _mm256_mask_i32gather_epi32(otherwise, base, at, _mm256_castps_si256(wanted), 4);
}
HEED_INLINE __m256i gather(const std::int32_t* base, __m256i at, __m256d wanted, __m256i otherwise) noexcept {
  const __m128 low = _mm_castpd_ps(_mm256_castpd256_pd128(wanted));
  const __m128 high = _mm_castpd_ps(_mm256_extractf128_pd(wanted, 1));
  const __m128i narrow_wanted = _mm_castps_si128(_mm_shuffle_ps(low, high, 0x88));
  const __m128i narrow = _mm256_mask_i64gather_epi32(_mm_setzero_si128(), base, at, narrow_wanted, 4);
  return _mm256_blendv_epi8(otherwise, _mm256_cvtepi32_epi64(narrow), _mm256_castpd_si256(wanted));
}
#endif

}  // namespace detail
HEED_ARCH_END
