/// The functions that mods are written with, for plain numbers.
///
/// The packs of a kernel bring functions of the same names. So one generic lambda that calls `heed::exp(s)` or
/// `heed::max(s, 0)` works on float, double and on packs of either.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <concepts>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

template <class T>
concept number = std::is_arithmetic_v<T>;

/// Of two types, that which the other converts to.
template <class T, class U>
using joined_t = std::conditional_t<std::is_convertible_v<U, T>, T, U>;

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

// Packs keep these functions to themselves: only unqualified calls with arguments of one type find them. What follows
// is for all other calls, `heed::max(s, 0)` for one.
template <class M, class T, class U>
  requires(!detail::number<T> || !detail::number<U>)
HEED_INLINE constexpr detail::joined_t<T, U> select(const M& which, const T& a, const U& b) noexcept {
  using common = detail::joined_t<T, U>;
  if constexpr (std::same_as<M, bool>)
    return which ? common(a) : common(b);
  else
    return select(which, common(a), common(b));
}
template <class T, class U>
  requires(!detail::number<T> || !detail::number<U>)
HEED_INLINE constexpr detail::joined_t<T, U> min(const T& a, const U& b) noexcept {
  using common = detail::joined_t<T, U>;
  return min(common(a), common(b));
}
template <class T, class U>
  requires(!detail::number<T> || !detail::number<U>)
HEED_INLINE constexpr detail::joined_t<T, U> max(const T& a, const U& b) noexcept {
  using common = detail::joined_t<T, U>;
  return max(common(a), common(b));
}
template <class T>
  requires(!detail::number<T>)
HEED_INLINE constexpr T abs(const T& x) noexcept {
  return abs(T(x));
}
template <class T>
  requires(!detail::number<T>)
HEED_INLINE constexpr T sqrt(const T& x) noexcept {
  return sqrt(T(x));
}
template <class I>
  requires(!detail::number<I>)
HEED_INLINE constexpr I floor_mod(const I& a, int divisor) noexcept {
  return floor_mod(I(a), divisor);
}

// Builtins, not <cmath>: that header costs more than all of mod/. Templates, so that where a program's own ::exp(float)
// is in sight as well, under `using namespace heed`, the call is not ambiguous.
template <std::floating_point T>
HEED_INLINE T exp(T x) noexcept {
  if constexpr (std::same_as<T, float>)
    return __builtin_expf(x);
  else
    return __builtin_exp(x);
}
template <std::floating_point T>
HEED_INLINE T exp2(T x) noexcept {
  if constexpr (std::same_as<T, float>)
    return __builtin_exp2f(x);
  else
    return __builtin_exp2(x);
}
template <std::floating_point T>
HEED_INLINE T log(T x) noexcept {
  if constexpr (std::same_as<T, float>)
    return __builtin_logf(x);
  else
    return __builtin_log(x);
}
template <std::floating_point T>
HEED_INLINE T log1p(T x) noexcept {
  if constexpr (std::same_as<T, float>)
    return __builtin_log1pf(x);
  else
    return __builtin_log1p(x);
}
template <std::floating_point T>
HEED_INLINE T tanh(T x) noexcept {
  if constexpr (std::same_as<T, float>)
    return __builtin_tanhf(x);
  else
    return __builtin_tanh(x);
}
template <std::floating_point T>
HEED_INLINE T sqrt(T x) noexcept {
  if constexpr (std::same_as<T, float>)
    return __builtin_sqrtf(x);
  else
    return __builtin_sqrt(x);
}

/// x^exponent
template <std::floating_point T>
HEED_INLINE T pow(T x, std::type_identity_t<T> exponent) noexcept {
  if constexpr (std::same_as<T, float>)
    return __builtin_powf(x, exponent);
  else
    return __builtin_pow(x, exponent);
}

/// 1 / (1 + e^-x)
template <class T>
HEED_INLINE T sigmoid(const T& x) noexcept {
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

/// `lookup` in a table of integers, with integers as the result.
template <class I>
HEED_INLINE constexpr auto lookup_integer(const view<const std::int32_t, 1>& table, const I& index,
                                          int fallback) noexcept {
  if constexpr (std::is_integral_v<I>)
    return static_cast<int>(lookup(table, index, fallback));
  else
    return index.lookup_in(table, fallback);
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
