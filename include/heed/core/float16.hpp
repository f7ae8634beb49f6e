/// The two 16-bit storage types, and the element types that operators take.
#pragma once

#include <heed/config.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

HEED_BEGIN

/// The upper half of a float: 8 exponent bits, 8 significant bits. Unit roundoff 2^-8, range of float.
///
/// A storage type: it turns into float by itself, so expressions are evaluated in float, and only an explicit
/// conversion rounds back: `x = heed::bfloat16(2 * x)`. Rounding is to nearest, ties to even, from double as well (one
/// rounding, not two); NaN stays NaN, what is too large becomes infinity. Two values compare as floats do: NaN != NaN,
/// -0 == 0.
struct bfloat16 {
  std::uint16_t bits;

  /// Uninitialised like a float; `bfloat16{}` is zero.
  bfloat16() = default;

  HEED_INLINE explicit constexpr bfloat16(float value) noexcept : bits(round(value)) {}
  HEED_INLINE explicit constexpr bfloat16(double value) noexcept;
  template <std::integral I>
  HEED_INLINE explicit constexpr bfloat16(I value) noexcept : bfloat16(static_cast<double>(value)) {}

  HEED_INLINE static constexpr bfloat16 from_bits(std::uint16_t bits) noexcept {
    bfloat16 value{};
    value.bits = bits;
    return value;
  }

  HEED_INLINE constexpr operator float() const noexcept {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }

  HEED_INLINE constexpr bfloat16 operator-() const noexcept {
    return from_bits(static_cast<std::uint16_t>(bits ^ 0x8000u));
  }

 private:
  HEED_INLINE static constexpr std::uint16_t round(float value) noexcept {
    const auto x = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t rounded = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
    const std::uint32_t quiet_nan = (x >> 16) | 0x40u;
    return static_cast<std::uint16_t>((x & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
  }
};

/// IEEE binary16: 5 exponent bits, 11 significant bits. Unit roundoff 2^-11, largest value 65504, subnormals down to
/// 2^-24.
///
/// A storage type with the conversions of bfloat16. Subnormals are exact; magnitudes from 65520 on become infinity.
struct float16 {
  std::uint16_t bits;

  /// Uninitialised like a float; `float16{}` is zero.
  float16() = default;

  HEED_INLINE explicit constexpr float16(float value) noexcept : bits(round(value)) {}
  HEED_INLINE explicit constexpr float16(double value) noexcept;
  template <std::integral I>
  HEED_INLINE explicit constexpr float16(I value) noexcept : float16(static_cast<double>(value)) {}

  HEED_INLINE static constexpr float16 from_bits(std::uint16_t bits) noexcept {
    float16 value{};
    value.bits = bits;
    return value;
  }

  HEED_INLINE constexpr operator float() const noexcept {
    const std::uint32_t sign = (static_cast<std::uint32_t>(bits) & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    // A subnormal is given the exponent of the smallest normal number, which is then subtracted: the difference is
    // exact.
    const std::uint32_t subnormal = mask(magnitude < 0x400u);
    const std::uint32_t is_finite = mask(magnitude < 0x7c00u);
    const std::uint32_t finite = (magnitude << 13) + exponent_gap + (subnormal & 0x800000u);
    const std::uint32_t special = (magnitude << 13) | 0x7f800000u | (mask(magnitude > 0x7c00u) & 0x400000u);
    const float value =
        __builtin_bit_cast(float, finite& is_finite) - __builtin_bit_cast(float, subnormal& smallest_normal);
    const auto x = __builtin_bit_cast(std::uint32_t, value);
    return __builtin_bit_cast(float, sign | (x & is_finite) | (special & ~is_finite));
  }

  HEED_INLINE constexpr float16 operator-() const noexcept {
    return from_bits(static_cast<std::uint16_t>(bits ^ 0x8000u));
  }

 private:
  /// The exponent biases of float and float16 differ by 127 - 15.
  static constexpr std::uint32_t exponent_gap = 112u << 23;
  /// 2^-14 as a float.
  static constexpr std::uint32_t smallest_normal = 0x38800000u;

  /// All ones or zero. Choosing by masks keeps the float operations out of branches, where compilers that honour
  /// floating point exceptions would leave them scalar.
  HEED_INLINE static constexpr std::uint32_t mask(bool condition) noexcept {
    return 0u - static_cast<std::uint32_t>(condition);
  }

  HEED_INLINE static constexpr std::uint16_t round(float value) noexcept {
    const auto x = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t sign = (x >> 16) & 0x8000u;
    const std::uint32_t magnitude = x & 0x7fffffffu;
    const std::uint32_t normal = (magnitude - exponent_gap + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // The spacing of floats in [0.5, 1) is the smallest float16, so this addition rounds to a multiple of it.
    const std::uint32_t is_small = mask(magnitude < smallest_normal);
    const float shifted = __builtin_bit_cast(float, magnitude& is_small) + 0.5f;
    const std::uint32_t subnormal = __builtin_bit_cast(std::uint32_t, shifted) - 0x3f000000u;
    const std::uint32_t quiet_nan = 0x200u | ((magnitude >> 13) & 0x3ffu);
    const std::uint32_t special = 0x7c00u | (quiet_nan & mask(magnitude > 0x7f800000u));
    const std::uint32_t finite = (subnormal & is_small) | (normal & ~is_small);
    const std::uint32_t is_finite = mask(magnitude < 0x477ff000u);
    return static_cast<std::uint16_t>(sign | (finite & is_finite) | (special & ~is_finite));
  }
};

/// The float next to a double on the side of zero, its last bit set if that loses anything ("round to odd"): rounding
/// it once more to a narrower type gives what rounding the double at once would.
HEED_INLINE constexpr float round_to_odd(double value) noexcept {
  const float nearest = static_cast<float>(value);
  const auto x = __builtin_bit_cast(std::uint32_t, nearest);
  const double back = nearest;
  const bool exact = back == value || value != value;
  const bool away = (back < 0 ? -back : back) > (value < 0 ? -value : value);
  return __builtin_bit_cast(float, exact ? x : ((away ? x - 1u : x) | 1u));
}

HEED_INLINE constexpr bfloat16::bfloat16(double value) noexcept : bits(round(round_to_odd(value))) {}
HEED_INLINE constexpr float16::float16(double value) noexcept : bits(round(round_to_odd(value))) {}

/// What operators store: float, double, bfloat16 or float16.
template <class T>
concept element =
    std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bfloat16> || std::same_as<T, float16>;

/// What operators compute sums of T in: double for double, float for the others.
template <class T>
using accumulator_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// The name of an element type in messages and benchmark rows.
template <element T>
inline constexpr const char* dtype_name = std::is_same_v<T, float>      ? "float"
                                          : std::is_same_v<T, double>   ? "double"
                                          : std::is_same_v<T, bfloat16> ? "bfloat16"
                                                                        : "float16";

HEED_END
