/// Elementary functions of packs, with the accuracy each one keeps.
///
/// Accuracies were measured against double over the whole domain (tests/simd asserts them).
#pragma once

#include <heed/simd/pack.hpp>

#include <limits>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

template <class T>
inline constexpr T log2_e = T(1.44269504088896340736L);

/// c[0] + x * (c[1] + x * (...)) with the constants in the order of their powers.
template <class P, class T, int Count>
HEED_INLINE P horner(P x, const T (&c)[Count]) noexcept {
  P y(c[Count - 1]);
#pragma GCC unroll 16
  for (int i = Count - 2; i >= 0; --i) y = fma(y, x, P(c[i]));
  return y;
}

// Minimax polynomials of 2^x with the constant term held at 1, so that 2^integer is exact.
// On [0, 1): relative error 8.3e-8 (degree 5) and 2.1e-9 (degree 6); on [-1/2, 1/2]: 9.2e-8 and 2.0e-9.
inline constexpr float exp2_floor_5[] = {1.f,           0.6931512951f,  0.2401644439f,
                                         0.0557999127f, 0.00901702978f, 0.00186713017f};
inline constexpr float exp2_round_5[] = {1.f,           0.6931470037f,  0.2402224243f,
                                         0.0555073359f, 0.00967151299f, 0.00132647273f};
inline constexpr float exp2_round_6[] = {1.f,           0.6931471825f,  0.2402264774f, 0.0555033237f,
                                         0.0096184378f, 0.00133988762f, 0.00015353197f};
// ln(2)^k / k!: on [-1/2, 1/2] the first term left out is below 5e-18.
inline constexpr double exp2_round_13[] = {1.0,
                                           0.693147180559945309417,
                                           0.240226506959100712334,
                                           0.0555041086648215799531,
                                           0.00961812910762847716198,
                                           0.00133335581464284434234,
                                           0.000154035303933816099544,
                                           0.00001525273380405984028,
                                           0.00000132154867901443094884,
                                           1.01780860092396997275e-7,
                                           7.05491162080112332988e-9,
                                           4.4455382718708114976e-10,
                                           2.5678435993488205142e-11,
                                           1.36914888539041288809e-12};

/// How many terms of 2^x a caller wants: weights of a softmax live with 2e-7, functions offered to users keep 1 ulp.
enum class precision { weight, full };

template <precision P, class T>
HEED_INLINE constexpr const auto& exp2_terms() noexcept {
  if constexpr (std::is_same_v<T, double>)
    return exp2_round_13;
  else if constexpr (P == precision::weight)
    return exp2_round_5;
  else
    return exp2_round_6;
}

/// Adding this leaves round(x) plus the exponent bias in the low bits of the sum; subtracting it again leaves round(x).
template <class T>
inline constexpr T rounding_shift =
    T(1.5) * T(lane_int_t<T>(1) << (std::numeric_limits<T>::digits - 1)) + T(std::numeric_limits<T>::max_exponent - 1);

/// 2^n for the n with `shifted` = n + rounding_shift, where 2^n is a normal number.
///
/// A factor, where adding n to an exponent would do: that makes numbers of some NaNs, a product keeps them all.
template <class T, class A>
HEED_INLINE pack<T, A> power_of_two(pack<T, A> shifted) noexcept {
  using real_batch = typename pack<T, A>::batch_type;
  using bits_batch = batch<lane_int_t<T>, A>;
  return {reinterpret_batch<real_batch>(reinterpret_batch<bits_batch>(shifted.value)
                                        << (std::numeric_limits<T>::digits - 1))};
}

/// Whether exp2_bounded gives infinity for what is too large. Elsewhere it gives anything then.
template <class T, class A>
inline constexpr bool exp2_saturates =
#if defined(__AVX512DQ__)
    has_avx512<A> && std::is_same_v<T, float>;
#else
    false;
#endif

/// 2^x for x <= 126. Below the normal range: 0, since products with subnormals cost a hundred times those with others.
/// exp2(-inf) = 0, NaN stays NaN.
template <precision P, class T, class A>
HEED_INLINE pack<T, A> exp2_bounded(pack<T, A> x) noexcept {
#if defined(__AVX512DQ__)
  // One reduction and one scaling instruction do the splitting; the comparison only zeroes what would be subnormal.
  if constexpr (has_avx512<A> && std::is_same_v<T, float> && P == precision::weight) {
    const pack<T, A> r(typename pack<T, A>::batch_type(_mm512_maskz_reduce_ps(0xffff, x.value, 0x01)));
    const pack<T, A> p = horner(r, exp2_floor_5);
    const __mmask16 normal = _mm512_cmp_ps_mask(x.value, _mm512_set1_ps(-126.f), _CMP_NLT_UQ);
    return {typename pack<T, A>::batch_type(_mm512_maskz_scalef_ps(normal, p.value, x.value))};
  } else
#endif
  {
    const pack<T, A> shift(rounding_shift<T>);
    const pack<T, A> shifted = x + shift;
    const pack<T, A> p = horner(x - (shifted - shift), exp2_terms<P, T>());
    return zero_where(x < pack<T, A>(std::numeric_limits<T>::min_exponent - 1), p * power_of_two(shifted));
  }
}

/// 2^z of a logit z, which may be far above the reference, or NaN: that must show in a sum of weights.
template <class T, class A>
HEED_INLINE pack<T, A> weight_of(pack<T, A> z) noexcept {
  if constexpr (!exp2_saturates<T, A>) z = min(pack<T, A>(T(std::numeric_limits<T>::max_exponent - 2)), z);
  return exp2_bounded<precision::weight>(z);
}

template <class T>
inline constexpr T top_exponent = T(std::numeric_limits<T>::max_exponent);

}  // namespace detail

/// 2^x. 1 ulp (float, double) with fused multiply-add, 1.25 ulp without. Overflow gives inf, results below the normal
/// range give 0, NaN stays NaN.
template <class T, class A>
HEED_INLINE pack<T, A> exp2(pack<T, A> x) noexcept {
  const pack<T, A> top(detail::top_exponent<T> - 2);
  const pack<T, A> lowered = min(top, select(x > top, x - pack<T, A>(T(4)), x));
  const pack<T, A> y = detail::exp2_bounded<detail::precision::full>(lowered);
  return select(x > top, y * pack<T, A>(T(16)), y);
}

/// e^x. 1.25 ulp (float, double) with fused multiply-add, 2 ulp without. Overflow gives inf, results below the normal
/// range are subnormal or 0, NaN stays NaN.
template <class T, class A>
HEED_INLINE pack<T, A> exp(pack<T, A> x) noexcept {
  using P = pack<T, A>;
  constexpr bool is_float = std::is_same_v<T, float>;
  // ln 2 in two parts whose first has trailing zeros, so that n * ln2_high is exact.
  const P ln2_high(T(is_float ? 0.693359375 : 0.693147180369123816490));
  const P ln2_low(T(is_float ? -2.12194440054690583e-4 : 1.90821492927058770002e-10));
  const P log2e(T(1.44269504088896340736)), shift(detail::rounding_shift<T>);
  // Beyond these bounds the result is 0 or inf anyway; clamping keeps the exponent in its field. NaN passes.
  const P bounded = min(P(T(is_float ? 89 : 710)), max(P(T(is_float ? -104 : -746)), x));
  const P n = (bounded * log2e + shift) - shift;
  const P r = fma(n, -ln2_low, fma(n, -ln2_high, bounded));
  const P p = detail::horner(r * log2e, detail::exp2_terms<detail::precision::full, T>());
  // 2^n in two factors: n itself may be one step outside the exponent field at either end.
  const P half = n * P(T(0.5)) + shift;
  return detail::power_of_two(half) * p * detail::power_of_two(n - (half - shift) + shift);
}

/// tanh x. Float: 6 ulp, from a rational function with x P(x^2) / Q(x^2) and exact at 0; double: xsimd's, 2 ulp.
template <class T, class A>
HEED_INLINE pack<T, A> tanh(pack<T, A> x) noexcept {
  if constexpr (std::is_same_v<T, double>) {
    return {tanh(x.value)};
  } else {
    using P = pack<T, A>;
    // Minimax for the quotient with tanh x / x on [0, 9.02]; beyond, tanh rounds to 1.
    constexpr float numerator[] = {1.f, 0.1337971836f, 0.003494034521f, 2.058348036e-5f, 1.331907118e-8f};
    constexpr float denominator[] = {1.f, 0.4671303332f, 0.02587107196f, 3.283092811e-4f, 7.762018868e-7f};
    const P bounded = max(P(-9.02f), min(P(9.02f), x));
    const P square = bounded * bounded;
    const P y = bounded * detail::horner(square, numerator) / detail::horner(square, denominator);
    return min(P(1.f), max(P(-1.f), y));
  }
}

/// 1 / (1 + e^-x).
template <class T, class A>
HEED_INLINE pack<T, A> sigmoid(pack<T, A> x) noexcept {
  return pack<T, A>(T(1)) / (pack<T, A>(T(1)) + exp(-x));
}

/// Natural logarithm, log(1 + x), e^x - 1: xsimd's, 1-2 ulp.
template <class T, class A>
HEED_INLINE pack<T, A> log(pack<T, A> x) noexcept {
  return {log(x.value)};
}
template <class T, class A>
HEED_INLINE pack<T, A> log1p(pack<T, A> x) noexcept {
  return {log1p(x.value)};
}
template <class T, class A>
HEED_INLINE pack<T, A> expm1(pack<T, A> x) noexcept {
  return {expm1(x.value)};
}

/// x^exponent, one exponent for all lanes. Whole exponents up to 64, of either sign: products, |exponent| ulp. All
/// others: e^(exponent log x), 3 + 2 |exponent log x| ulp, and NaN for x < 0.
template <class T, class A>
HEED_INLINE pack<T, A> pow(pack<T, A> x, std::type_identity_t<T> exponent) noexcept {
  using P = pack<T, A>;
  const T magnitude = exponent < 0 ? -exponent : exponent;
  if (!(magnitude <= 64 && magnitude == T(int(magnitude)))) return exp(P(exponent) * log(x));
  P product(T(1)), square = x;
  for (int left = int(magnitude); left > 0; left /= 2) {
    if (left % 2 != 0) product = product * square;
    square = square * square;
  }
  return exponent < 0 ? P(T(1)) / product : product;
}

HEED_ARCH_END
