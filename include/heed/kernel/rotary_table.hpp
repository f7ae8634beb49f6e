/// Sines and cosines of the angles of a token, for every pair of features.
#pragma once

#include <heed/core/rotary_options.hpp>
#include <heed/core/scratch.hpp>
#include <heed/simd/convert.hpp>
#include <heed/simd/math.hpp>

#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// Absolute error below 2^-52 for every finite x (as a number: whoever computes an angle adds the rounding of that).
template <class A>
HEED_INLINE void sine_cosine(pack<double, A> x, pack<double, A>& sine, pack<double, A>& cosine) noexcept {
  using real = pack<double, A>;
  // pi/2 in parts of 22 bits and a rest: for up to 31 bits of k, k times a part is exact, so are the first differences.
  constexpr double half_pi[] = {0x1.921fbp+0, 0x1.5110bp-22, 0x1.1846980000000p-44, 0x1.3198a2e037073p-69};
  constexpr double limit = 0x1p31;
  // Adding and subtracting this rounds to an integer.
  const real rounder(0x1.8p52);

  const real k = (x * real(0x1.45f306dc9c883p-1) + rounder) - rounder;
  real r = x;
  for (const double part : half_pi) r = fma(-k, real(part), r);
  const real quarter = fma(real(-4.0), (k * real(0.25) + rounder) - rounder, k);  // in -2..2

  // Minimax polynomials on [-pi/4, pi/4] (the coefficients of fdlibm).
  constexpr double s[] = {-1.66666666666666324348e-01, 8.33333333332248946124e-03,  -1.98412698298579493134e-04,
                          2.75573137070700676789e-06,  -2.50507602534068634195e-08, 1.58969099521155010221e-10};
  constexpr double c[] = {4.16666666666666019037e-02,  -1.38888888888741095749e-03, 2.48015872894767294178e-05,
                          -2.75573143513906633035e-07, 2.08757232129817482790e-09,  -1.13596475577881948265e-11};
  const real square = r * r;
  const real sine_r = fma(r * square, horner(square, s), r);
  const real cosine_r = fma(square * square, horner(square, c), fma(square, real(-0.5), real(1.0)));

  const auto odd = abs(quarter) == real(1.0);
  const auto opposite = abs(quarter) == real(2.0);
  const real s0 = select(odd, cosine_r, sine_r), c0 = select(odd, sine_r, cosine_r);
  sine = select(opposite | (quarter == real(-1.0)), -s0, s0);
  cosine = select(opposite | (quarter == real(1.0)), -c0, c0);

  if (any(!(abs(x) <= real(limit)))) [[unlikely]] {
    sine = x.each_lane([](double angle) { return std::sin(angle); });
    cosine = x.each_lane([](double angle) { return std::cos(angle); });
  }
}

/// The table rows of a block of tokens: for half_split R/2 cosines, then R/2 sines; for interleaved R cosines, each
/// twice, then R sines, each twice, the first negated: out = x * cosines + (x with neighbors exchanged) * sines.
/// Each part is padded to whole registers of every instruction set.
template <class T>
struct rotary_table {
  static constexpr index_t padding = 16;

  T* rows;
  index_t width;  // elements of each of the two parts

  static constexpr index_t width_of(index_t features, rotary_layout layout) noexcept {
    return round_up(layout == rotary_layout::half_split ? features / 2 : features, padding);
  }
  T* cosines(index_t row) const noexcept { return rows + 2 * width * row; }
  T* sines(index_t row) const noexcept { return rows + 2 * width * row + width; }
};

/// Writes base^(-2t/R) for each pair t, and zeros up to the padding.
inline void rotary_frequencies(double base, index_t features, double* frequencies) noexcept {
  const index_t pairs = features / 2;
  for (index_t t = 0; t < pairs; ++t)
    frequencies[t] = std::pow(base, -2.0 * static_cast<double>(t) / static_cast<double>(features));
  for (index_t t = pairs; t < round_up(pairs, rotary_table<double>::padding); ++t) frequencies[t] = 0;
}

/// Angles are products in double; only their sines and cosines are rounded to T.
template <class A, class T>
void rotary_table_row(double position, const double* frequencies, index_t pairs, rotary_layout layout, T* cosines,
                      T* sines) noexcept {
  using real = pack<double, A>;
  const real turns(position);
  for (index_t t = 0; t < pairs; t += real::lanes) {
    real sine, cosine;
    sine_cosine(turns * real::load(frequencies + t), sine, cosine);
    if (layout == rotary_layout::half_split) {
      store_as(cosines + t, cosine);
      store_as(sines + t, sine);
    } else {
      alignas(64) double each_sine[real::lanes], each_cosine[real::lanes];
      sine.store_aligned(each_sine);
      cosine.store_aligned(each_cosine);
      for (int i = 0; i < real::lanes; ++i) {
        const auto c = static_cast<T>(each_cosine[i]), s = static_cast<T>(each_sine[i]);
        cosines[2 * (t + i)] = cosines[2 * (t + i) + 1] = c;
        sines[2 * (t + i)] = -s;
        sines[2 * (t + i) + 1] = s;
      }
    }
  }
}

}  // namespace detail
HEED_ARCH_END
