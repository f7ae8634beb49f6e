/// Runs a check for every instruction set that this binary was compiled for and this machine has.
#pragma once

#include <heed/simd/arch.hpp>

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

/// f(A{}) for each of them, best first. Exceptions pass.
template <class F>
void for_each_arch(F f) {
  heed::supported_arches::for_each([&](auto arch) {
    if (is_available(arch)) f(arch);
  });
}

}  // namespace support
