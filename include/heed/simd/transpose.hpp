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

/// rows[i] lane j becomes rows[j] lane i. log2(lanes) * lanes shuffles.
template <class T, class A>
HEED_INLINE void transpose(pack<T, A> (&rows)[static_cast<std::size_t>(lanes<T, A>)]) noexcept {
  constexpr int n = pack<T, A>::lanes;
  typedef T native __attribute__((vector_size(sizeof(T) * n)));
  using batch_type = typename pack<T, A>::batch_type;
  native r[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) r[i] = __builtin_bit_cast(native, rows[i].value.data);
  transpose_stage<1>(r);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) rows[i] = pack<T, A>(batch_type(__builtin_bit_cast(typename batch_type::register_type, r[i])));
}

}  // namespace detail
HEED_ARCH_END
