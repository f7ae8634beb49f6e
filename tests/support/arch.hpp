/// Runs a check for the instruction sets that this binary was compiled for and this machine has.
#pragma once

#include <heed/simd/arch.hpp>

#include <type_traits>

namespace support {

inline bool is_available(heed::portable) { return true; }

#if HEED_XSIMD
/// Later releases of xsimd answer for each set, earlier ones tell the best.
template <class A, class Available>
bool is_among(const Available& available) {
  if constexpr (requires { available.has(A{}); })
    return available.has(A{});
  else
    return available.best >= A::version();
}

template <class A>
bool is_available(A) {
  return is_among<A>(xsimd::available_architectures());
}
#endif

/// Sets that kernels, which see packs alone, can tell from each other: by lanes, registers, and whether multiply-add
/// and operations on integers are one instruction. What else sets differ by stays within packs.
template <class A>
inline constexpr bool is_distinct =
#if HEED_XSIMD && !defined(HEED_TEST_DEFAULT_ARCHES)
    std::is_same_v<A, xsimd::fma3<xsimd::avx2>> || std::is_same_v<A, xsimd::avx> || std::is_same_v<A, xsimd::sse2> ||
#endif
#if !defined(HEED_TEST_DEFAULT_ARCHES)
    std::is_same_v<A, heed::portable> ||
#endif
    std::is_same_v<A, heed::default_arch>;

/// f(A{}) for each distinct set, best first; in a build with HEED_TEST_DEFAULT_ARCHES, for the build's own. Exceptions
/// pass.
template <class F>
void for_each_distinct_arch(F f) {
  heed::supported_arches::for_each([&](auto arch) {
    if constexpr (is_distinct<decltype(arch)>)
      if (is_available(arch)) f(arch);
  });
}

/// f(A{}) for every set, best first; in a build without HEED_TEST_EVERY_ARCHES, for the distinct ones.
template <class F>
void for_each_arch(F f) {
#if !defined(HEED_TEST_EVERY_ARCHES)
  for_each_distinct_arch(f);
#else
  heed::supported_arches::for_each([&](auto arch) {
    if (is_available(arch)) f(arch);
  });
#endif
}

}  // namespace support
