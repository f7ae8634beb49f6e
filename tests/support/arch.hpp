/// Runs a check for every instruction set that this binary was compiled for and this machine has.
#pragma once

#include <heed/simd/arch.hpp>

namespace support {

/// Later releases of xsimd answer for each set, earlier ones tell the best.
template <class A, class Available>
bool is_among(const Available& available) {
  if constexpr (requires { available.has(A{}); })
    return available.has(A{});
  else
    return available.best >= A::version();
}

namespace detail {

template <class... A, class F>
void for_each_arch(xsimd::arch_list<A...>, F& f) {
  const auto available = xsimd::available_architectures();
  ((is_among<A>(available) ? f(A{}) : void()), ...);
}

}  // namespace detail

/// f(A{}) for each of them, best first. Exceptions pass.
template <class F>
void for_each_arch(F f) {
  detail::for_each_arch(heed::supported_arches{}, f);
}

}  // namespace support
