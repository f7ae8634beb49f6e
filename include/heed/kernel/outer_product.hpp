/// The register-blocked product under every tile: a few scalars of one operand times a few registers of the other.
#pragma once

#include <heed/simd/convert.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Steps known at compile time. Address arithmetic of the inner loop then folds into the instructions.
template <index_t Step>
using fixed_step = std::integral_constant<index_t, Step>;
using unit_step = fixed_step<1>;

struct touch_nothing {
  HEED_INLINE void operator()(const void*) const noexcept {}
};

/// acc[r][v] += sum_{k < depth} a[r * row_step + k * depth_step] * b[k * pitch + v * lanes]
///
/// Scalars of `a` are broadcast from where they are, so `a` needs neither packing nor padding.
/// Rows of `b` at a fixed pitch are aligned; others may be the caller's, of any alignment and storage type. touch(p) is
/// called before the vector of `b` at p is read.
/// Rows * Vectors accumulators must fit the registers, with Vectors + 1 to spare.
template <int Rows, int Vectors, class T, class A, class RowStep, class DepthStep, class S, class Pitch,
          class Touch = touch_nothing>
HEED_INLINE void add_outer_product(pack<T, A> (&acc)[Rows][Vectors], const T* a, RowStep row_step, DepthStep depth_step,
                                   const S* b, Pitch pitch, index_t depth, Touch touch = {}) noexcept {
  using P = pack<T, A>;
  // Rows at a run-time step share base pointers: a pointer each would not fit the registers, and g++ spills them into
  // vectors.
  constexpr int sharing = std::is_same_v<RowStep, index_t> ? 4 : Rows;
  const T* base[(Rows + sharing - 1) / sharing];
  constexpr int used = Rows * Vectors + Vectors + 1;
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r += sharing) base[r / sharing] = a + r * row_step;

  for (index_t k = 0; k < depth; ++k) {
    P bv[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      const S* const from = b + k * pitch + v * P::lanes;
      touch(from);
      if constexpr (std::is_same_v<Pitch, index_t>)
        bv[v] = keep_in_register<used>(load_as<T, A>(from));
      else
        bv[v] = keep_in_register<used>(P::load_aligned(from));
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const P av(base[r / sharing][r % sharing * row_step]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[r][v] = fma(av, bv[v], acc[r][v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r += sharing) base[r / sharing] = keep_in_register(base[r / sharing] + depth_step);
  }
}

/// The same product, from init(r, v) to emit(r, v, sum).
template <int Rows, int Vectors, class T, class A, class RowStep, class DepthStep, class S, class Pitch, class Init,
          class Emit, class Touch = touch_nothing>
HEED_INLINE void outer_product(const T* a, RowStep row_step, DepthStep depth_step, const S* b, Pitch pitch,
                               index_t depth, Init init, Emit emit, Touch touch = {}) noexcept {
  pack<T, A> acc[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[r][v] = init(r, v);
  add_outer_product(acc, a, row_step, depth_step, b, pitch, depth, touch);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) emit(r, v, acc[r][v]);
}

}  // namespace detail
HEED_ARCH_END
