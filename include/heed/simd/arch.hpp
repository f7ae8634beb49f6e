/// Instruction sets as template arguments, and what a kernel needs to know of one.
#pragma once

#include <heed/config.hpp>

// The AVX-512 intrinsics of g++ 12 read a variable they never set, and warn of it wherever they are inlined.
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <xsimd/xsimd.hpp>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#if XSIMD_VERSION_MAJOR < 8 || (XSIMD_VERSION_MAJOR == 8 && XSIMD_VERSION_MINOR < 1)
#error "heed: needs xsimd 8.1 or newer"
#endif

HEED_ARCH_BEGIN

/// The best instruction set of the translation unit. Kernels take theirs as a template argument, so one binary can test
/// every set that its machine runs.
using default_arch = xsimd::default_arch;

/// Every instruction set that the translation unit can compile for, best first: supported_arches::for_each(f).
#if defined(__aarch64__)
// xsimd lists 32-bit NEON too, which has no double.
using supported_arches = xsimd::arch_list<xsimd::neon64>;
#else
using supported_arches = xsimd::supported_architectures;
#endif

namespace detail {

/// Elements of T in one vector register.
template <class T, class A>
inline constexpr int lanes = static_cast<int>(xsimd::batch<T, A>::size);

/// 512-bit registers and per-lane masks.
template <class A>
inline constexpr bool has_avx512 = sizeof(xsimd::batch<float, A>) == 64;

/// Vector registers a kernel may keep live.
template <class A>
inline constexpr int register_count =
#if defined(__aarch64__)
    32;
#else
    has_avx512<A> ? 32 : 16;
#endif

}  // namespace detail
HEED_ARCH_END
