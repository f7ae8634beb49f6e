/// The functions that mods are written with, for plain numbers.
///
/// The packs of a kernel have functions of the same names, found by argument-dependent lookup. So one generic lambda,
/// calling them unqualified or as `heed::exp(s)`, works on float, double and on packs of either.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <concepts>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

template <class T>
concept number = std::is_arithmetic_v<T>;

}  // namespace detail

/// which ? a : b, in the common type of both. With packs both sides are evaluated, always.
template <detail::number T, detail::number U>
HEED_INLINE constexpr std::common_type_t<T, U> select(bool which, T a, U b) noexcept {
  using common = std::common_type_t<T, U>;
  return which ? static_cast<common>(a) : static_cast<common>(b);
}

/// If one argument is NaN the result is the second one, as with packs.
template <detail::number T, detail::number U>
HEED_INLINE constexpr std::common_type_t<T, U> min(T a, U b) noexcept {
  const std::common_type_t<T, U> x = a, y = b;
  return x < y ? x : y;
}
template <detail::number T, detail::number U>
HEED_INLINE constexpr std::common_type_t<T, U> max(T a, U b) noexcept {
  const std::common_type_t<T, U> x = a, y = b;
  return x > y ? x : y;
}

template <detail::number T>
HEED_INLINE constexpr T abs(T x) noexcept {
  return x < T(0) ? static_cast<T>(-x) : x == T(0) ? T(0) : x;
}

// Builtins, not <cmath>: that header costs more than all of mod/.
HEED_INLINE float exp(float x) noexcept { return __builtin_expf(x); }
HEED_INLINE double exp(double x) noexcept { return __builtin_exp(x); }
HEED_INLINE float exp2(float x) noexcept { return __builtin_exp2f(x); }
HEED_INLINE double exp2(double x) noexcept { return __builtin_exp2(x); }
HEED_INLINE float log(float x) noexcept { return __builtin_logf(x); }
HEED_INLINE double log(double x) noexcept { return __builtin_log(x); }
HEED_INLINE float log1p(float x) noexcept { return __builtin_log1pf(x); }
HEED_INLINE double log1p(double x) noexcept { return __builtin_log1p(x); }
HEED_INLINE float tanh(float x) noexcept { return __builtin_tanhf(x); }
HEED_INLINE double tanh(double x) noexcept { return __builtin_tanh(x); }
HEED_INLINE float sqrt(float x) noexcept { return __builtin_sqrtf(x); }
HEED_INLINE double sqrt(double x) noexcept { return __builtin_sqrt(x); }

/// 1 / (1 + e^-x)
template <std::floating_point T>
HEED_INLINE T sigmoid(T x) noexcept {
  return T(1) / (T(1) + exp(-x));
}

/// Remainder in [0, divisor), also for negative numbers; divisor > 0.
template <std::signed_integral I>
HEED_INLINE constexpr I floor_mod(I a, std::type_identity_t<I> divisor) noexcept {
  const I remainder = static_cast<I>(a % divisor);
  return static_cast<I>(remainder < 0 ? remainder + divisor : remainder);
}

/// Quotient rounded toward minus infinity; divisor > 0.
template <std::signed_integral I>
HEED_INLINE constexpr I floor_div(I a, std::type_identity_t<I> divisor) noexcept {
  return static_cast<I>(a / divisor - (a % divisor < 0 ? 1 : 0));
}

/// table[index], or `fallback` for an index outside the table; nothing outside is read.
template <class U, std::signed_integral I>
HEED_INLINE constexpr std::remove_const_t<U> lookup(const view<U, 1>& table, I index,
                                                    std::type_identity_t<std::remove_const_t<U>> fallback) noexcept {
  return index >= 0 && index < table.extent(0) ? table[index] : fallback;
}

/// An index (or a pack of them) in the type of a score.
template <class S, class I>
HEED_INLINE constexpr S to_real(const S&, const I& index) noexcept {
  return static_cast<S>(index);
}

namespace detail {

/// `lookup` in a table of integers, with integers as the result. A pack of indices looks up lane by lane.
template <class I>
HEED_INLINE constexpr auto lookup_integer(const view<const std::int32_t, 1>& table, const I& index, int fallback) noexcept {
  if constexpr (std::is_integral_v<I>)
    return static_cast<int>(lookup(table, index, fallback));
  else
    return index.each_lane([&](int i) { return static_cast<int>(lookup(table, i, fallback)); });
}

/// `and`, `or` of two answers, each a plain truth value or a pack of them. Operator `&` would turn bools into an int.
template <class X, class Y>
HEED_INLINE constexpr auto both(const X& x, const Y& y) noexcept {
  if constexpr (number<X> && number<Y>)
    return x && y;
  else
    return x & y;
}
template <class X, class Y>
HEED_INLINE constexpr auto either(const X& x, const Y& y) noexcept {
  if constexpr (number<X> && number<Y>)
    return x || y;
  else
    return x | y;
}

/// A mask answer that is the same for all queries, in the type that comparisons of `q` have.
template <class I>
HEED_INLINE constexpr auto everywhere(const I& q, bool answer) noexcept {
  return decltype(q < 0)(answer);
}

}  // namespace detail
HEED_ARCH_END
