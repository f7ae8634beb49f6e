/// Namespaces, switches and compiler requirements. Every other header starts here.
///
/// Two kinds of names (docs/abi.md has the reasons):
/// - HEED_BEGIN .. HEED_END: `heed::v0`. Types that may cross translation units compiled for different machines: views,
///   dtypes, options, exceptions. Nothing in them depends on the instruction set; their functions are always inlined.
/// - HEED_ARCH_BEGIN .. HEED_ARCH_END: `heed::v0::<arch>`. Everything else, entry points included. The name lists the
///   instruction sets of the translation unit, so the linker never merges code compiled for different machines.
#pragma once

#include <heed/version.hpp>

#if !defined(__GNUC__)
#error "heed: needs g++ 12 or clang 14 or newer"
#endif
#if __cplusplus < 202002L
#error "heed: needs C++20 (-std=c++20)"
#endif
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "heed: -ffinite-math-only (part of -ffast-math and -Ofast) removes the infinities that masked scores rely on"
#endif

#if defined(__ASSOCIATIVE_MATH__)
#error "heed: -fassociative-math (part of -funsafe-math-optimizations) cancels the rounding steps that its exponentials rely on"
#endif

#define HEED_INLINE [[gnu::always_inline]] inline
#define HEED_NOINLINE [[gnu::noinline]]
/// For what runs once a call: translated for size, which costs the user's compiler less.
#define HEED_COLD [[gnu::noinline, gnu::cold]]

#if defined(__cpp_exceptions)
#define HEED_EXCEPTIONS 1
#else
#define HEED_EXCEPTIONS 0
#endif

#if defined(__AVX512BF16__)
#define HEED_ISA_BF16 _bf16
#else
#define HEED_ISA_BF16
#endif
#if defined(__AVX512FP16__)
#define HEED_ISA_FP16 _fp16
#else
#define HEED_ISA_FP16
#endif
#if defined(__AVX512VNNI__)
#define HEED_ISA_VNNI _vnni
#else
#define HEED_ISA_VNNI
#endif
#if defined(__AVX512VBMI__)
#define HEED_ISA_VBMI _vbmi
#else
#define HEED_ISA_VBMI
#endif
#if defined(__AVX512IFMA__)
#define HEED_ISA_IFMA _ifma
#else
#define HEED_ISA_IFMA
#endif
#if defined(__AVX512VL__)
#define HEED_ISA_VL _vl
#else
#define HEED_ISA_VL
#endif
#if defined(__AVX512BW__)
#define HEED_ISA_BW _bw
#else
#define HEED_ISA_BW
#endif
#if defined(__AVX512DQ__)
#define HEED_ISA_DQ _dq
#else
#define HEED_ISA_DQ
#endif
#if defined(__AVX512CD__)
#define HEED_ISA_CD _cd
#else
#define HEED_ISA_CD
#endif
#if defined(__AVX512F__)
#define HEED_ISA_AVX512 _avx512
#else
#define HEED_ISA_AVX512
#endif
#if defined(__AVXVNNI__)
#define HEED_ISA_AVXVNNI _avxvnni
#else
#define HEED_ISA_AVXVNNI
#endif
#if defined(__F16C__)
#define HEED_ISA_F16C _f16c
#else
#define HEED_ISA_F16C
#endif
#if defined(__FMA4__)
#define HEED_ISA_FMA4 _fma4
#else
#define HEED_ISA_FMA4
#endif
#if defined(__FMA__)
#define HEED_ISA_FMA _fma
#else
#define HEED_ISA_FMA
#endif
#if defined(__AVX2__)
#define HEED_ISA_AVX2 _avx2
#else
#define HEED_ISA_AVX2
#endif
#if defined(__AVX__)
#define HEED_ISA_AVX _avx
#else
#define HEED_ISA_AVX
#endif
#if defined(__SSE4_2__)
#define HEED_ISA_SSE42 _sse42
#else
#define HEED_ISA_SSE42
#endif
#if defined(__SSE4_1__)
#define HEED_ISA_SSE41 _sse41
#else
#define HEED_ISA_SSE41
#endif
#if defined(__SSSE3__)
#define HEED_ISA_SSSE3 _ssse3
#else
#define HEED_ISA_SSSE3
#endif
#if defined(__SSE3__)
#define HEED_ISA_SSE3 _sse3
#else
#define HEED_ISA_SSE3
#endif
#if defined(__SSE2__)
#define HEED_ISA_BASE x86
#elif defined(__aarch64__)
#define HEED_ISA_BASE arm64
#else
#define HEED_ISA_BASE generic
#endif
#if defined(__ARM_FEATURE_SVE)
#define HEED_ISA_SVE _sve
#else
#define HEED_ISA_SVE
#endif
#if defined(_OPENMP)
#define HEED_ISA_OPENMP _omp
#else
#define HEED_ISA_OPENMP
#endif
#if defined(HEED_DEBUG_CHECKS)
#define HEED_ISA_DEBUG _dbg
#else
#define HEED_ISA_DEBUG
#endif
#if HEED_EXCEPTIONS
#define HEED_ISA_EXCEPTIONS
#else
#define HEED_ISA_EXCEPTIONS _noexc
#endif

#define HEED_PASTE_8_(a, b, c, d, e, f, g, h) a##b##c##d##e##f##g##h
#define HEED_PASTE_8(a, b, c, d, e, f, g, h) HEED_PASTE_8_(a, b, c, d, e, f, g, h)
#define HEED_ISA_GROUP_SSE \
  HEED_PASTE_8(HEED_ISA_BASE, HEED_ISA_SVE, HEED_ISA_SSE3, HEED_ISA_SSSE3, HEED_ISA_SSE41, HEED_ISA_SSE42, HEED_ISA_AVX, HEED_ISA_AVX2)
#define HEED_ISA_GROUP_AVX \
  HEED_PASTE_8(HEED_ISA_FMA, HEED_ISA_FMA4, HEED_ISA_F16C, HEED_ISA_AVXVNNI, HEED_ISA_AVX512, HEED_ISA_CD, HEED_ISA_DQ, HEED_ISA_BW)
#define HEED_ISA_GROUP_512 \
  HEED_PASTE_8(HEED_ISA_VL, HEED_ISA_IFMA, HEED_ISA_VBMI, HEED_ISA_VNNI, HEED_ISA_BF16, HEED_ISA_FP16, , )
#define HEED_ISA_GROUP_SWITCHES HEED_PASTE_8(HEED_ISA_OPENMP, HEED_ISA_DEBUG, HEED_ISA_EXCEPTIONS, , , , , )

/// The inline namespace of this translation unit, for example `x86_sse3_ssse3_sse41_sse42_avx_avx2_fma_f16c_omp`.
#define HEED_ARCH \
  HEED_PASTE_8(HEED_ISA_GROUP_SSE, HEED_ISA_GROUP_AVX, HEED_ISA_GROUP_512, HEED_ISA_GROUP_SWITCHES, , , , )

#define HEED_BEGIN    \
  namespace heed {    \
  inline namespace v0 {
#define HEED_END \
  }              \
  }
#define HEED_ARCH_BEGIN \
  namespace heed {      \
  inline namespace v0 { \
  inline namespace HEED_ARCH {
#define HEED_ARCH_END \
  }                   \
  }                   \
  }
