/// Dual numbers: what a score mod is called with to learn its derivative.
#pragma once

#include <heed/config.hpp>
#include <heed/mod/scalar.hpp>

#include <concepts>
#include <type_traits>

HEED_ARCH_BEGIN

template <class P, int K = 1>
struct dual;

namespace detail {

template <class X>
inline constexpr bool is_dual = false;
template <class P, int K>
inline constexpr bool is_dual<dual<P, K>> = true;

/// What stands beside a dual number of P as a constant.
template <class X, class P>
concept constant_for = std::convertible_to<const X&, P> && !is_dual<X>;

}  // namespace detail

/// A value and K partial derivatives. P: float, double or a pack of them.
///
/// Values are computed by the very operations that P itself would go through. Comparisons look at values. At kinks:
/// abs'(0) = 0, and of equal numbers min and max take the first.
template <class P, int K>
struct dual {
  static constexpr int partials = K;

  P value{};
  P partial[K] = {};

  HEED_INLINE constexpr dual() noexcept = default;
  /// A constant.
  template <class X>
    requires detail::constant_for<X, P>
  HEED_INLINE constexpr dual(const X& constant) noexcept : value(P(constant)) {}

  /// The independent variable number `which`.
  HEED_INLINE static constexpr dual variable(const P& at, int which = 0) noexcept {
    dual x(at);
    x.partial[which] = P(1);
    return x;
  }

  HEED_INLINE friend constexpr dual operator-(const dual& a) noexcept {
    return a.through(-a.value, [](const P& d) { return -d; });
  }
  HEED_INLINE friend constexpr dual operator+(const dual& a, const dual& b) noexcept {
    return a.with(b, a.value + b.value, [](const P& x, const P& y) { return x + y; });
  }
  HEED_INLINE friend constexpr dual operator-(const dual& a, const dual& b) noexcept {
    return a.with(b, a.value - b.value, [](const P& x, const P& y) { return x - y; });
  }
  HEED_INLINE friend constexpr dual operator*(const dual& a, const dual& b) noexcept {
    return a.with(b, a.value * b.value, [&](const P& x, const P& y) { return x * b.value + a.value * y; });
  }
  HEED_INLINE friend constexpr dual operator/(const dual& a, const dual& b) noexcept {
    const P quotient = a.value / b.value;
    return a.with(b, quotient, [&](const P& x, const P& y) { return (x - quotient * y) / b.value; });
  }

  // Constants have no partials: zeros in their place would cost multiplications, and be NaN beside infinities.
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator+(const dual& a, const X& b) noexcept {
    return a.through(a.value + P(b), [](const P& d) { return d; });
  }
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator+(const X& a, const dual& b) noexcept {
    return b.through(P(a) + b.value, [](const P& d) { return d; });
  }
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator-(const dual& a, const X& b) noexcept {
    return a.through(a.value - P(b), [](const P& d) { return d; });
  }
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator-(const X& a, const dual& b) noexcept {
    return b.through(P(a) - b.value, [](const P& d) { return -d; });
  }
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator*(const dual& a, const X& b) noexcept {
    return a.through(a.value * P(b), [&](const P& d) { return d * P(b); });
  }
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator*(const X& a, const dual& b) noexcept {
    return b.through(P(a) * b.value, [&](const P& d) { return P(a) * d; });
  }
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator/(const dual& a, const X& b) noexcept {
    return a.through(a.value / P(b), [&](const P& d) { return d / P(b); });
  }
  template <detail::constant_for<P> X>
  HEED_INLINE friend constexpr dual operator/(const X& a, const dual& b) noexcept {
    const P quotient = P(a) / b.value;
    return b.through(quotient, [&](const P& d) { return -(quotient * d) / b.value; });
  }

  template <class X>
  HEED_INLINE constexpr dual& operator+=(const X& b) noexcept {
    return *this = *this + b;
  }
  template <class X>
  HEED_INLINE constexpr dual& operator-=(const X& b) noexcept {
    return *this = *this - b;
  }
  template <class X>
  HEED_INLINE constexpr dual& operator*=(const X& b) noexcept {
    return *this = *this * b;
  }
  template <class X>
  HEED_INLINE constexpr dual& operator/=(const X& b) noexcept {
    return *this = *this / b;
  }

  HEED_INLINE friend constexpr auto operator==(const dual& a, const dual& b) noexcept { return a.value == b.value; }
  HEED_INLINE friend constexpr auto operator!=(const dual& a, const dual& b) noexcept { return a.value != b.value; }
  HEED_INLINE friend constexpr auto operator<(const dual& a, const dual& b) noexcept { return a.value < b.value; }
  HEED_INLINE friend constexpr auto operator<=(const dual& a, const dual& b) noexcept { return a.value <= b.value; }
  HEED_INLINE friend constexpr auto operator>(const dual& a, const dual& b) noexcept { return a.value > b.value; }
  HEED_INLINE friend constexpr auto operator>=(const dual& a, const dual& b) noexcept { return a.value >= b.value; }

  template <class M>
  HEED_INLINE friend constexpr dual select(const M& which, const dual& a, const dual& b) noexcept {
    return a.with(b, select(which, a.value, b.value), [&](const P& x, const P& y) { return select(which, x, y); });
  }
  HEED_INLINE friend constexpr dual min(const dual& a, const dual& b) noexcept {
    const auto first = a.value <= b.value;
    return a.with(b, min(a.value, b.value), [&](const P& x, const P& y) { return select(first, x, y); });
  }
  HEED_INLINE friend constexpr dual max(const dual& a, const dual& b) noexcept {
    const auto first = a.value >= b.value;
    return a.with(b, max(a.value, b.value), [&](const P& x, const P& y) { return select(first, x, y); });
  }
  HEED_INLINE friend constexpr dual abs(const dual& a) noexcept {
    const auto rises = a.value > P(0), falls = a.value < P(0);
    return a.through(abs(a.value), [&](const P& d) { return select(rises, d, select(falls, -d, P(0))); });
  }
  /// A function of this number alone: its value, and what it makes of a partial.
  template <class F>
  HEED_INLINE constexpr dual through(const P& y, F f) const noexcept {
    dual result;
    result.value = y;
    for (int i = 0; i < K; ++i) result.partial[i] = f(partial[i]);
    return result;
  }

 private:
  template <class F>
  HEED_INLINE constexpr dual with(const dual& b, const P& y, F f) const noexcept {
    dual result;
    result.value = y;
    for (int i = 0; i < K; ++i) result.partial[i] = f(partial[i], b.partial[i]);
    return result;
  }
};

// Not friends, as qualified calls find them too: `heed::exp(s)`.
template <class P, int K>
HEED_INLINE dual<P, K> exp(const dual<P, K>& a) noexcept {
  const P y = exp(a.value);
  return a.through(y, [&](const P& d) { return y * d; });
}
template <class P, int K>
HEED_INLINE dual<P, K> exp2(const dual<P, K>& a) noexcept {
  const P y = exp2(a.value), slope = y * P(0.693147180559945309417);
  return a.through(y, [&](const P& d) { return slope * d; });
}
template <class P, int K>
HEED_INLINE dual<P, K> log(const dual<P, K>& a) noexcept {
  return a.through(log(a.value), [&](const P& d) { return d / a.value; });
}
template <class P, int K>
HEED_INLINE dual<P, K> log1p(const dual<P, K>& a) noexcept {
  return a.through(log1p(a.value), [&](const P& d) { return d / (P(1) + a.value); });
}
template <class P, int K>
HEED_INLINE dual<P, K> sqrt(const dual<P, K>& a) noexcept {
  const P y = sqrt(a.value);
  return a.through(y, [&](const P& d) { return d / (y + y); });
}
template <class P, int K>
HEED_INLINE dual<P, K> tanh(const dual<P, K>& a) noexcept {
  const P y = tanh(a.value), slope = P(1) - y * y;
  return a.through(y, [&](const P& d) { return slope * d; });
}
template <class P, int K>
HEED_INLINE dual<P, K> sigmoid(const dual<P, K>& a) noexcept {
  const P y = sigmoid(a.value), slope = y * (P(1) - y);
  return a.through(y, [&](const P& d) { return slope * d; });
}
/// a^exponent
template <class P, int K>
HEED_INLINE dual<P, K> pow(const dual<P, K>& a, double exponent) noexcept {
  const P slope = exponent == 0 ? P(0) : P(exponent) * pow(a.value, exponent - 1);
  return a.through(pow(a.value, exponent), [&](const P& d) { return slope * d; });
}

/// An index (or a pack of them) in the type of a score: a constant.
template <class P, int K, class I>
HEED_INLINE constexpr P to_real(const dual<P, K>& score, const I& index) noexcept {
  return to_real(score.value, index);
}

HEED_ARCH_END
