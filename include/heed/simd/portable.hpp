/// Vectors of 16 bytes for any processor; the compiler makes of them what it has instructions for.
///
/// They are to packs what xsimd::batch and xsimd::batch_bool are, as far as packs ask.
#pragma once

#include <heed/config.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

HEED_ARCH_BEGIN

/// The instruction set of processors that heed has no other for.
struct portable {
  static constexpr const char* name() noexcept { return "portable"; }
};

namespace detail {

template <class T>
struct vector_of {
  typedef T type __attribute__((vector_size(16)));
};

/// Truth values beside lanes of T. Integers of their width: -1 or 0.
template <class T>
struct portable_mask {
  using lane_type = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
  using register_type = typename vector_of<lane_type>::type;
  register_type data;

  HEED_INLINE portable_mask(register_type v) noexcept : data(v) {}
  HEED_INLINE portable_mask(bool all_lanes) noexcept : data(register_type{} - lane_type(all_lanes)) {}

  HEED_INLINE friend portable_mask operator&(portable_mask a, portable_mask b) noexcept { return a.data & b.data; }
  HEED_INLINE friend portable_mask operator|(portable_mask a, portable_mask b) noexcept { return a.data | b.data; }
  HEED_INLINE friend portable_mask operator!(portable_mask a) noexcept { return ~a.data; }
  HEED_INLINE friend bool any(portable_mask a) noexcept {
    lane_type either = 0;
    for (std::size_t i = 0; i < 16 / sizeof(T); ++i) either |= a.data[i];
    return either != 0;
  }
  HEED_INLINE friend bool all(portable_mask a) noexcept { return !any(!a); }
};

template <class T>
struct portable_batch {
  static constexpr std::size_t size = 16 / sizeof(T);
  using register_type = typename vector_of<T>::type;
  using mask_type = portable_mask<T>;
  register_type data;

  HEED_INLINE portable_batch(register_type v) noexcept : data(v) {}
  HEED_INLINE portable_batch(T all_lanes) noexcept {
    if constexpr (size == 2)
      data = register_type{all_lanes, all_lanes};
    else
      data = register_type{all_lanes, all_lanes, all_lanes, all_lanes};
  }
  HEED_INLINE operator register_type() const noexcept { return data; }

  HEED_INLINE static portable_batch load_unaligned(const T* from) noexcept {
    register_type v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  HEED_INLINE static portable_batch load_aligned(const T* from) noexcept {
    return load_unaligned(static_cast<const T*>(__builtin_assume_aligned(from, 16)));
  }
  HEED_INLINE void store_unaligned(T* to) const noexcept { std::memcpy(to, &data, sizeof data); }
  HEED_INLINE void store_aligned(T* to) const noexcept {
    store_unaligned(static_cast<T*>(__builtin_assume_aligned(to, 16)));
  }

  HEED_INLINE friend portable_batch operator+(portable_batch a, portable_batch b) noexcept {
    return from_bits(wrapping(a) + wrapping(b));
  }
  HEED_INLINE friend portable_batch operator-(portable_batch a, portable_batch b) noexcept {
    return from_bits(wrapping(a) - wrapping(b));
  }
  HEED_INLINE friend portable_batch operator*(portable_batch a, portable_batch b) noexcept {
    return from_bits(wrapping(a) * wrapping(b));
  }
  HEED_INLINE friend portable_batch operator/(portable_batch a, portable_batch b) noexcept { return a.data / b.data; }
  HEED_INLINE friend portable_batch operator-(portable_batch a) noexcept { return from_bits(-wrapping(a)); }
  HEED_INLINE friend portable_batch operator&(portable_batch a, portable_batch b) noexcept { return a.data & b.data; }
  HEED_INLINE friend portable_batch operator|(portable_batch a, portable_batch b) noexcept { return a.data | b.data; }
  HEED_INLINE friend portable_batch operator<<(portable_batch a, int n) noexcept { return from_bits(wrapping(a) << n); }
  HEED_INLINE friend portable_batch operator>>(portable_batch a, int n) noexcept { return a.data >> n; }

  HEED_INLINE friend mask_type operator==(portable_batch a, portable_batch b) noexcept {
    return truth(a.data == b.data);
  }
  HEED_INLINE friend mask_type operator!=(portable_batch a, portable_batch b) noexcept {
    return truth(a.data != b.data);
  }
  HEED_INLINE friend mask_type operator<(portable_batch a, portable_batch b) noexcept { return truth(a.data < b.data); }
  HEED_INLINE friend mask_type operator<=(portable_batch a, portable_batch b) noexcept {
    return truth(a.data <= b.data);
  }
  HEED_INLINE friend mask_type operator>(portable_batch a, portable_batch b) noexcept { return truth(a.data > b.data); }
  HEED_INLINE friend mask_type operator>=(portable_batch a, portable_batch b) noexcept {
    return truth(a.data >= b.data);
  }

  HEED_INLINE friend portable_batch select(mask_type which, portable_batch a, portable_batch b) noexcept {
    return which.data ? a.data : b.data;
  }
  // Beside NaN the second operand.
  HEED_INLINE friend portable_batch min(portable_batch a, portable_batch b) noexcept { return select(a < b, a, b); }
  HEED_INLINE friend portable_batch max(portable_batch a, portable_batch b) noexcept { return select(a > b, a, b); }

  HEED_INLINE friend portable_batch fma(portable_batch a, portable_batch b, portable_batch c) noexcept {
    // Where there is no such instruction, a function of the C library would round once, at a hundred times the cost.
#if defined(__FP_FAST_FMAF) && defined(__FP_FAST_FMA)
    for (std::size_t i = 0; i < size; ++i)
      if constexpr (std::is_same_v<T, float>)
        c.data[i] = __builtin_fmaf(a.data[i], b.data[i], c.data[i]);
      else
        c.data[i] = __builtin_fma(a.data[i], b.data[i], c.data[i]);
    return c;
#else
    return a.data * b.data + c.data;
#endif
  }
  HEED_INLINE friend portable_batch abs(portable_batch a) noexcept {
    constexpr auto all_but_sign = static_cast<typename mask_type::lane_type>(~(1ull << (8 * sizeof(T) - 1)));
    return from_bits(__builtin_bit_cast(typename mask_type::register_type, a.data) & all_but_sign);
  }
  // Through double, which for the square root is exact and for the others better than asked for.
  HEED_INLINE friend portable_batch sqrt(portable_batch a) noexcept {
    return a.each_lane([](double x) { return __builtin_sqrt(x); });
  }
  HEED_INLINE friend portable_batch tanh(portable_batch a) noexcept {
    return a.each_lane([](double x) { return __builtin_tanh(x); });
  }
  HEED_INLINE friend portable_batch log(portable_batch a) noexcept {
    return a.each_lane([](double x) { return __builtin_log(x); });
  }
  HEED_INLINE friend portable_batch log1p(portable_batch a) noexcept {
    return a.each_lane([](double x) { return __builtin_log1p(x); });
  }
  HEED_INLINE friend portable_batch expm1(portable_batch a) noexcept {
    return a.each_lane([](double x) { return __builtin_expm1(x); });
  }

  /// Integers as real numbers of their width.
  HEED_INLINE friend auto to_float(portable_batch a) noexcept {
    using real = std::conditional_t<sizeof(T) == 8, double, float>;
    return portable_batch<real>(__builtin_convertvector(a.data, typename vector_of<real>::type));
  }

 private:
  /// Integers in a type that wraps around, as vector instructions do.
  HEED_INLINE static auto wrapping(portable_batch a) noexcept {
    if constexpr (std::is_integral_v<T>)
      return __builtin_bit_cast(typename vector_of<std::make_unsigned_t<T>>::type, a.data);
    else
      return a.data;
  }
  template <class V>
  HEED_INLINE static portable_batch from_bits(V v) noexcept {
    return __builtin_bit_cast(register_type, v);
  }
  template <class V>
  HEED_INLINE static mask_type truth(V v) noexcept {
    return __builtin_bit_cast(typename mask_type::register_type, v);
  }
  template <class F>
  HEED_INLINE portable_batch each_lane(F f) const noexcept {
    portable_batch result = *this;
    for (std::size_t i = 0; i < size; ++i) result.data[i] = static_cast<T>(f(data[i]));
    return result;
  }
};

}  // namespace detail
HEED_ARCH_END
