/// Instruction sets as template arguments, and what a kernel needs to know of one.
#pragma once

#include <heed/config.hpp>
#include <heed/simd/portable.hpp>

#include <cstdint>
#include <type_traits>

// What xsimd knows of other processors depends on its release, and heed has not tried it there.
#if defined(__SSE2__) || defined(__aarch64__)
#define HEED_XSIMD 1
#else
#define HEED_XSIMD 0
#endif

#if HEED_XSIMD
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
#endif

HEED_ARCH_BEGIN

/// Instruction sets, best first.
template <class... A>
struct arch_list {
  /// f(A{}) for each of them.
  template <class F>
  static void for_each(F&& f) {
    (f(A{}), ...);
  }
};

namespace detail {

template <class T, class A>
struct batch_of;
template <class T>
struct batch_of<T, portable> {
  using type = portable_batch<T>;
  using mask_type = portable_mask<T>;
};

#if HEED_XSIMD
template <class T, class A>
struct batch_of {
  using type = xsimd::batch<T, A>;
  using mask_type = xsimd::batch_bool<T, A>;
};

template <class... A>
arch_list<A..., portable> and_portable(xsimd::arch_list<A...>);
#endif

/// One register of T, and one of truth values beside it.
template <class T, class A>
using batch = typename batch_of<T, A>::type;
template <class T, class A>
using batch_bool = typename batch_of<T, A>::mask_type;

}  // namespace detail

/// default_arch: the best instruction set of the translation unit. Kernels take theirs as a template argument, so one
/// binary can test every set that its machine runs.
///
/// supported_arches: every instruction set that the translation unit can compile for, an arch_list.
#if !HEED_XSIMD
using default_arch = portable;
using supported_arches = arch_list<portable>;
#else
using default_arch = xsimd::default_arch;
#if defined(__aarch64__)
// xsimd lists 32-bit NEON too, which has no double.
using supported_arches = arch_list<xsimd::neon64, portable>;
#else
using supported_arches = decltype(detail::and_portable(xsimd::supported_architectures{}));
#endif
#endif

/// Integers of the width of T, so that an index_pack has as many lanes as the pack of scores beside it.
template <class T>
using lane_int_t = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

namespace detail {

/// Elements of T in one vector register.
template <class T, class A>
inline constexpr int lanes = static_cast<int>(batch<T, A>::size);

/// 512-bit registers and per-lane masks.
template <class A>
inline constexpr bool has_avx512 = sizeof(batch<float, A>) == 64;

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
