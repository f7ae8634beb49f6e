/// `pack`, `index_pack`, `mask_pack`: one vector register of scores, integers or truth values, with ordinary operators.
///
/// Thin wrappers over xsimd::batch, or over vectors of heed's own where there is no xsimd. They give one spelling for
/// xsimd 8.1 to its newest, fused multiply-add where that xsimd release has none, and mixed arithmetic of scores with
/// positions.
/// Everything is inlined.
#pragma once

#include <heed/core/view.hpp>
#include <heed/simd/arch.hpp>
#include <heed/simd/gather.hpp>

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

HEED_ARCH_BEGIN

namespace detail {

/// The same bits as another batch or batch_bool. xsimd's bitwise_cast takes different arguments from one release to the
/// next.
template <class To, class From>
HEED_INLINE To reinterpret_batch(From from) noexcept {
  return To(__builtin_bit_cast(typename To::register_type, from.data));
}

/// a, but 0 where told. From a selection beside 0 g++ makes three instructions where masks are vectors.
template <class Batch, class Mask>
HEED_INLINE Batch zero_where(Mask which, Batch a) noexcept {
  using real = typename Batch::register_type;
  if constexpr (sizeof(which.data) == sizeof(real)) {
    typedef long long bits __attribute__((vector_size(sizeof(real))));
    return Batch(__builtin_bit_cast(real, __builtin_bit_cast(bits, a.data) & ~__builtin_bit_cast(bits, which.data)));
  } else {
    return select(which, Batch(typename Batch::value_type(0)), a);
  }
}

/// The smaller or larger one; where one of them is NaN, b (on x86, and in portable vectors).
template <class Batch>
HEED_INLINE Batch min_or_second(Batch a, Batch b) noexcept {
  return min(a, b);
}
template <class Batch>
HEED_INLINE Batch max_or_second(Batch a, Batch b) noexcept {
  return max(a, b);
}
#if HEED_XSIMD && XSIMD_VERSION_MAJOR >= 14
// From version 14 on xsimd gives the first operand beside NaN.
template <class T, class A>
HEED_INLINE xsimd::batch<T, A> min_or_second(xsimd::batch<T, A> a, xsimd::batch<T, A> b) noexcept {
  return min(b, a);
}
template <class T, class A>
HEED_INLINE xsimd::batch<T, A> max_or_second(xsimd::batch<T, A> a, xsimd::batch<T, A> b) noexcept {
  return max(b, a);
}
#endif

}  // namespace detail

/// Truth values, one a lane of pack<T, A>.
template <class T, class A = default_arch>
struct mask_pack {
  using batch_type = detail::batch_bool<T, A>;
  batch_type value;

  HEED_INLINE mask_pack() noexcept : value(false) {}
  HEED_INLINE mask_pack(batch_type v) noexcept : value(v) {}
  HEED_INLINE mask_pack(bool all_lanes) noexcept : value(all_lanes) {}

  HEED_INLINE friend mask_pack operator&(mask_pack a, mask_pack b) noexcept { return {a.value & b.value}; }
  HEED_INLINE friend mask_pack operator|(mask_pack a, mask_pack b) noexcept { return {a.value | b.value}; }
  /// Spelled out: xsimd 8.1 answers `or` for AVX-512.
  HEED_INLINE friend mask_pack operator^(mask_pack a, mask_pack b) noexcept { return (a & !b) | (!a & b); }
  HEED_INLINE friend mask_pack operator&&(mask_pack a, mask_pack b) noexcept { return a & b; }
  HEED_INLINE friend mask_pack operator||(mask_pack a, mask_pack b) noexcept { return a | b; }
  HEED_INLINE friend mask_pack operator!(mask_pack a) noexcept { return {!a.value}; }
  HEED_INLINE friend bool any(mask_pack a) noexcept { return any(a.value); }
  HEED_INLINE friend bool all(mask_pack a) noexcept { return all(a.value); }
};

template <class T, class A>
struct pack;

/// Integers, one a lane of pack<T, A>. `int` operands stand for all lanes.
template <class T, class A = default_arch>
struct index_pack {
  using int_type = lane_int_t<T>;
  using batch_type = detail::batch<int_type, A>;
  static constexpr int lanes = detail::lanes<T, A>;
  batch_type value;

  HEED_INLINE index_pack() noexcept : value(int_type(0)) {}
  HEED_INLINE index_pack(batch_type v) noexcept : value(v) {}
  template <class I>
    requires std::is_integral_v<I>
  HEED_INLINE index_pack(I all_lanes) noexcept : value(static_cast<int_type>(all_lanes)) {}

  /// first, first + 1, ...
  HEED_INLINE static index_pack counting_from(int first) noexcept {
    alignas(64) int_type each[lanes];
    for (int i = 0; i < lanes; ++i) each[i] = i;
    return {batch_type::load_aligned(each) + batch_type(int_type(first))};
  }
  HEED_INLINE static index_pack load(const int_type* from) noexcept { return {batch_type::load_unaligned(from)}; }
  HEED_INLINE void store(int_type* to) const noexcept { value.store_unaligned(to); }

  HEED_INLINE friend index_pack operator+(index_pack a, index_pack b) noexcept { return {a.value + b.value}; }
  HEED_INLINE friend index_pack operator-(index_pack a, index_pack b) noexcept { return {a.value - b.value}; }
  HEED_INLINE friend index_pack operator*(index_pack a, index_pack b) noexcept { return {a.value * b.value}; }
  HEED_INLINE friend index_pack operator-(index_pack a) noexcept { return {-a.value}; }

  HEED_INLINE friend mask_pack<T, A> operator==(index_pack a, index_pack b) noexcept {
    return as_mask(a.value == b.value);
  }
  HEED_INLINE friend mask_pack<T, A> operator!=(index_pack a, index_pack b) noexcept {
    return as_mask(a.value != b.value);
  }
  HEED_INLINE friend mask_pack<T, A> operator<(index_pack a, index_pack b) noexcept {
    return as_mask(a.value < b.value);
  }
  HEED_INLINE friend mask_pack<T, A> operator<=(index_pack a, index_pack b) noexcept {
    return as_mask(a.value <= b.value);
  }
  HEED_INLINE friend mask_pack<T, A> operator>(index_pack a, index_pack b) noexcept {
    return as_mask(a.value > b.value);
  }
  HEED_INLINE friend mask_pack<T, A> operator>=(index_pack a, index_pack b) noexcept {
    return as_mask(a.value >= b.value);
  }

  HEED_INLINE friend index_pack min(index_pack a, index_pack b) noexcept {
    return {detail::min_or_second(a.value, b.value)};
  }
  HEED_INLINE friend index_pack max(index_pack a, index_pack b) noexcept {
    return {detail::max_or_second(a.value, b.value)};
  }
  HEED_INLINE friend index_pack abs(index_pack a) noexcept { return max(a, -a); }
  HEED_INLINE friend index_pack select(mask_pack<T, A> which, index_pack a, index_pack b) noexcept {
    // xsimd 8 cannot select 32-bit integers under AVX-512 at -O0, floats it can.
    using real_batch = detail::batch<T, A>;
    return {detail::reinterpret_batch<batch_type>(select(which.value, detail::reinterpret_batch<real_batch>(a.value),
                                                         detail::reinterpret_batch<real_batch>(b.value)))};
  }

  /// Applies a function of one int to each lane. For what vector units have no instruction for.
  template <class F>
  HEED_INLINE index_pack each_lane(F f) const noexcept {
    alignas(64) int_type lane[lanes];
    value.store_aligned(lane);
    for (int i = 0; i < lanes; ++i) lane[i] = f(static_cast<int>(lane[i]));
    return {batch_type::load_aligned(lane)};
  }

  /// heed::lookup in a table of integers, with integers as the result.
  HEED_INLINE index_pack lookup_in(const view<const std::int32_t, 1>& table, int fallback) const noexcept;

  /// Remainder in [0, divisor), also for negative numbers; divisor > 0.
  HEED_INLINE friend index_pack floor_mod(index_pack a, int divisor) noexcept {
    return a.each_lane([divisor](int x) { return x % divisor + (x % divisor < 0 ? divisor : 0); });
  }
  /// Quotient rounded toward minus infinity; divisor > 0.
  HEED_INLINE friend index_pack floor_div(index_pack a, int divisor) noexcept {
    return a.each_lane([divisor](int x) { return x / divisor - (x % divisor < 0 ? 1 : 0); });
  }

 private:
  HEED_INLINE static mask_pack<T, A> as_mask(detail::batch_bool<int_type, A> m) noexcept {
    return {detail::reinterpret_batch<detail::batch_bool<T, A>>(m)};
  }
};

/// One register of T = float or double. Arithmetic scalars and index_packs convert.
template <class T, class A = default_arch>
struct pack {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed::pack: float or double");
  using element_type = T;
  using arch = A;
  using batch_type = detail::batch<T, A>;
  static constexpr int lanes = detail::lanes<T, A>;
  batch_type value;

  HEED_INLINE pack() noexcept : value(T(0)) {}
  HEED_INLINE pack(batch_type v) noexcept : value(v) {}
  template <class S>
    requires std::is_arithmetic_v<S>
  HEED_INLINE pack(S all_lanes) noexcept : value(static_cast<T>(all_lanes)) {}
  HEED_INLINE pack(index_pack<T, A> i) noexcept : value(to_float(i.value)) {}

  HEED_INLINE static pack load(const T* from) noexcept { return {batch_type::load_unaligned(from)}; }
  HEED_INLINE static pack load_aligned(const T* from) noexcept { return {batch_type::load_aligned(from)}; }
  HEED_INLINE void store(T* to) const noexcept { value.store_unaligned(to); }
  HEED_INLINE void store_aligned(T* to) const noexcept { value.store_aligned(to); }

  /// The first n lanes from memory, the others 0. Reads nothing past them.
  HEED_INLINE static pack load_first(const T* from, int n) noexcept {
    alignas(64) T lane[lanes] = {};
    std::memcpy(lane, from, static_cast<std::size_t>(n) * sizeof(T));
    return load_aligned(lane);
  }
  HEED_INLINE void store_first(T* to, int n) const noexcept {
    alignas(64) T lane[lanes];
    store_aligned(lane);
    std::memcpy(to, lane, static_cast<std::size_t>(n) * sizeof(T));
  }

  HEED_INLINE friend pack operator+(pack a, pack b) noexcept { return {a.value + b.value}; }
  HEED_INLINE friend pack operator-(pack a, pack b) noexcept { return {a.value - b.value}; }
  HEED_INLINE friend pack operator*(pack a, pack b) noexcept { return {a.value * b.value}; }
  HEED_INLINE friend pack operator/(pack a, pack b) noexcept {
#if defined(__aarch64__)
    // xsimd 8.1 approximates the float quotient of NEON; the instruction rounds it.
    return {batch_type(a.value.data / b.value.data)};
#else
    return {a.value / b.value};
#endif
  }
  HEED_INLINE friend pack operator-(pack a) noexcept { return {-a.value}; }
  HEED_INLINE pack& operator+=(pack b) noexcept { return *this = *this + b; }
  HEED_INLINE pack& operator-=(pack b) noexcept { return *this = *this - b; }
  HEED_INLINE pack& operator*=(pack b) noexcept { return *this = *this * b; }
  HEED_INLINE pack& operator/=(pack b) noexcept { return *this = *this / b; }

  HEED_INLINE friend mask_pack<T, A> operator==(pack a, pack b) noexcept { return {a.value == b.value}; }
  HEED_INLINE friend mask_pack<T, A> operator!=(pack a, pack b) noexcept { return {a.value != b.value}; }
  HEED_INLINE friend mask_pack<T, A> operator<(pack a, pack b) noexcept { return {a.value < b.value}; }
  HEED_INLINE friend mask_pack<T, A> operator<=(pack a, pack b) noexcept { return {a.value <= b.value}; }
  HEED_INLINE friend mask_pack<T, A> operator>(pack a, pack b) noexcept { return {a.value > b.value}; }
  HEED_INLINE friend mask_pack<T, A> operator>=(pack a, pack b) noexcept { return {a.value >= b.value}; }

  /// a * b + c, rounded once where the instruction set can.
  HEED_INLINE friend pack fma(pack a, pack b, pack c) noexcept {
#if defined(__AVX512F__)
    // xsimd 8.1 spells this as two operations for AVX-512 and leaves the fusion to the compiler's flags.
    if constexpr (detail::has_avx512<A> && std::is_same_v<T, float>)
      return {batch_type(_mm512_fmadd_ps(a.value, b.value, c.value))};
    else if constexpr (detail::has_avx512<A>)
      return {batch_type(_mm512_fmadd_pd(a.value, b.value, c.value))};
    else
#endif
      return {fma(a.value, b.value, c.value)};
  }
  /// If one operand is NaN the result is b: max(new, running) keeps what the caller puts second.
  HEED_INLINE friend pack min(pack a, pack b) noexcept { return {detail::min_or_second(a.value, b.value)}; }
  HEED_INLINE friend pack max(pack a, pack b) noexcept { return {detail::max_or_second(a.value, b.value)}; }
  HEED_INLINE friend pack abs(pack a) noexcept { return {abs(a.value)}; }
  HEED_INLINE friend pack sqrt(pack a) noexcept { return {sqrt(a.value)}; }
  HEED_INLINE friend pack select(mask_pack<T, A> which, pack a, pack b) noexcept {
    return {select(which.value, a.value, b.value)};
  }
  HEED_INLINE friend pack zero_where(mask_pack<T, A> which, pack a) noexcept {
    return {detail::zero_where(which.value, a.value)};
  }

  /// Sum and extremes over the lanes, in a fixed order.
  HEED_INLINE friend T reduce_add(pack a) noexcept {
    return a.fold([](T x, T y) { return x + y; });
  }
  HEED_INLINE friend T reduce_max(pack a) noexcept {
    return a.fold([](T x, T y) { return x < y ? y : x; });
  }
  HEED_INLINE friend T reduce_min(pack a) noexcept {
    return a.fold([](T x, T y) { return y < x ? y : x; });
  }

  template <class F>
  HEED_INLINE pack each_lane(F f) const noexcept {
    alignas(64) T lane[lanes];
    store_aligned(lane);
    for (int i = 0; i < lanes; ++i) lane[i] = f(lane[i]);
    return load_aligned(lane);
  }

 private:
  template <class F>
  HEED_INLINE T fold(F f) const noexcept {
    alignas(64) T lane[lanes];
    store_aligned(lane);
    for (int half = lanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lane[i] = f(lane[i], lane[i + half]);
    return lane[0];
  }
};

// A real number beside an index_pack makes it one of real numbers; as an index it would lose its fraction.
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator+(S a, index_pack<T, A> b) noexcept {
  return pack<T, A>(a) + pack<T, A>(b);
}
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator-(S a, index_pack<T, A> b) noexcept {
  return pack<T, A>(a) - pack<T, A>(b);
}
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator*(S a, index_pack<T, A> b) noexcept {
  return pack<T, A>(a) * pack<T, A>(b);
}
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator/(S a, index_pack<T, A> b) noexcept {
  return pack<T, A>(a) / pack<T, A>(b);
}
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator+(index_pack<T, A> a, S b) noexcept {
  return pack<T, A>(a) + pack<T, A>(b);
}
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator-(index_pack<T, A> a, S b) noexcept {
  return pack<T, A>(a) - pack<T, A>(b);
}
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator*(index_pack<T, A> a, S b) noexcept {
  return pack<T, A>(a) * pack<T, A>(b);
}
template <class S, class T, class A>
  requires std::is_floating_point_v<S>
HEED_INLINE pack<T, A> operator/(index_pack<T, A> a, S b) noexcept {
  return pack<T, A>(a) / pack<T, A>(b);
}

namespace detail {

/// Whether the instruction set can gather elements of U into packs of the kind P. Types are compared first: clang would
/// convert registers to others of the same size.
template <class U, class T, class A, class P>
concept gathers = ((std::is_same_v<U, T> && std::is_same_v<P, pack<T, A>>) ||
                   (std::is_same_v<U, std::int32_t> && std::is_same_v<P, index_pack<T, A>>)) &&
                  requires(const U* base, index_pack<T, A> at, mask_pack<T, A> wanted, P otherwise) {
                    gather(base, at.value.data, wanted.value.data, otherwise.value.data);
                  };

/// Whether Int holds the offset of every element of a table.
template <class Int, class U>
HEED_INLINE bool offsets_fit(const view<U, 1>& table) noexcept {
  constexpr index_t most = std::numeric_limits<std::int32_t>::max();
  const index_t extent = table.extent(0), stride = table.stride(0);
  return sizeof(Int) == 8 ||
         (extent <= most && stride <= most && stride >= -most && extent * stride <= most && extent * stride >= -most);
}

template <class U, class T, class A>
HEED_INLINE mask_pack<T, A> is_inside(const view<U, 1>& table, index_pack<T, A> index) noexcept {
  constexpr index_t most = std::numeric_limits<lane_int_t<T>>::max();
  const index_t last = table.extent(0) - 1;
  return (index >= 0) & (index <= (last < most ? last : most));
}

/// Elements of a table as lanes of P, a pack or an index_pack; those of `otherwise` where the index is outside.
template <class U, class T, class A, class P>
HEED_INLINE P lookup_or(const view<U, 1>& table, index_pack<T, A> index, P otherwise) noexcept {
  using int_type = typename index_pack<T, A>::int_type;
  if constexpr (gathers<std::remove_const_t<U>, T, A, P>) {
    if (offsets_fit<int_type>(table)) {
      const mask_pack<T, A> inside = is_inside(table, index);
      // Of the other lanes the product might overflow.
      if (table.stride(0) != 1) index = select(inside, index, index_pack<T, A>(0)) * table.stride(0);
      return {typename P::batch_type(gather(table.data(), index.value.data, inside.value.data, otherwise.value.data))};
    }
  }
  using lane_type = std::conditional_t<std::is_same_v<P, index_pack<T, A>>, int_type, T>;
  alignas(64) int_type at[lanes<T, A>];
  alignas(64) lane_type lane[lanes<T, A>];
  index.store(at);
  otherwise.store(lane);
  for (int i = 0; i < lanes<T, A>; ++i)
    if (at[i] >= 0 && at[i] < table.extent(0)) lane[i] = static_cast<lane_type>(table[at[i]]);
  return P::load(lane);
}

}  // namespace detail

/// Table lookup with a bound: lanes whose index is outside the table get `fallback`; nothing outside is read.
template <class T, class A, class U>
HEED_INLINE pack<T, A> lookup(const view<U, 1>& table, index_pack<T, A> index,
                              std::type_identity_t<T> fallback) noexcept {
  if constexpr (detail::gathers<std::remove_const_t<U>, T, A, index_pack<T, A>>)
    return select(detail::is_inside(table, index), pack<T, A>(detail::lookup_or(table, index, index_pack<T, A>(0))),
                  pack<T, A>(fallback));
  else
    return detail::lookup_or(table, index, pack<T, A>(fallback));
}

template <class T, class A>
HEED_INLINE index_pack<T, A> index_pack<T, A>::lookup_in(const view<const std::int32_t, 1>& table,
                                                         int fallback) const noexcept {
  return detail::lookup_or(table, *this, index_pack(fallback));
}

/// An index_pack as scores.
template <class T, class A>
HEED_INLINE pack<T, A> to_real(const pack<T, A>&, const index_pack<T, A>& index) noexcept {
  return {index};
}

HEED_ARCH_END
