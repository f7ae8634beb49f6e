/// The register-blocked product under every tile: a few scalars of one operand times a few registers of the other.
#pragma once

#include <heed/kernel/row_handles.hpp>
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

/// Scalars of a product, `Rows` at a time: that of row r at depth k is a[r * row_step + k * depth_step].
template <int Rows, class T, class RowStep, class DepthStep>
class strided_scalars {
 public:
  HEED_INLINE strided_scalars(const T* a, RowStep row_step, DepthStep depth_step) noexcept
      : row_step_(row_step), depth_step_(depth_step) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r += sharing) base_[r / sharing] = a + r * row_step;
  }
  /// That of row r at the depth reached.
  HEED_INLINE T operator[](int r) const noexcept { return base_[r / sharing][r % sharing * row_step_]; }
  HEED_INLINE void advance() noexcept {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r += sharing) base_[r / sharing] = keep_in_register(base_[r / sharing] + depth_step_);
  }

 private:
  // Rows at a run-time step share base pointers: a pointer each would not fit the registers, and g++ spills them into
  // vectors.
  static constexpr int sharing = std::is_same_v<RowStep, index_t> ? 4 : Rows;
  const T* base_[(Rows + sharing - 1) / sharing];
  [[no_unique_address]] RowStep row_step_;
  [[no_unique_address]] DepthStep depth_step_;
};

/// Those of rows that may be anywhere, with depth along the rows.
template <int Rows, class T>
class scalars_along {
 public:
  HEED_INLINE explicit scalars_along(pointed_rows<const T> rows) noexcept {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) row_[r] = rows[r];
  }
  HEED_INLINE T operator[](int r) const noexcept { return row_[r][depth_]; }
  HEED_INLINE void advance() noexcept { ++depth_; }

 private:
  const T* row_[Rows];
  index_t depth_ = 0;
};

/// Those of rows that may be anywhere, with depth from row to row: neighbors in each, from number `first` on.
template <class T>
class scalars_across {
 public:
  HEED_INLINE scalars_across(pointed_rows<const T> rows, index_t first) noexcept : row_(rows.at), first_(first) {}
  HEED_INLINE T operator[](int r) const noexcept { return (*row_ + first_)[r]; }
  HEED_INLINE void advance() noexcept { ++row_; }

 private:
  const T* const* row_;
  index_t first_;
};

template <int Rows, class T, class RowStep, class DepthStep>
HEED_INLINE auto scalars(const T* a, RowStep row_step, DepthStep depth_step) noexcept {
  return strided_scalars<Rows, T, RowStep, DepthStep>(a, row_step, depth_step);
}
/// Scalars of the first `Rows` of `rows`, with depth along them.
template <int Rows, class T>
HEED_INLINE auto along(strided_rows<const T> rows) noexcept {
  return scalars<Rows>(rows.data, rows.stride, unit_step{});
}
template <int Rows, class T>
HEED_INLINE auto along(pointed_rows<const T> rows) noexcept {
  return scalars_along<Rows, T>(rows);
}
/// `Rows` neighbors, from number `first` on, of each of `rows`, with depth from row to row.
template <int Rows, class T>
HEED_INLINE auto across(strided_rows<const T> rows, index_t first) noexcept {
  return scalars<Rows>(rows.data + first, unit_step{}, rows.stride);
}
template <int Rows, class T>
HEED_INLINE auto across(pointed_rows<const T> rows, index_t first) noexcept {
  return scalars_across<T>(rows, first);
}

/// acc[r][v] += sum_{k < depth} a[r] at depth k * b[k * pitch + v * lanes]
///
/// Scalars of `a` are broadcast from where they are, so `a` needs neither packing nor padding.
/// Rows of `b` at a fixed pitch are aligned; others may be the caller's, of any alignment and storage type. touch(p) is
/// called before the vector of `b` at p is read.
/// Rows * Vectors accumulators must fit the registers, with Vectors + 1 to spare.
template <int Rows, int Vectors, class T, class A, class Scalars, class S, class Pitch, class Touch = touch_nothing>
HEED_INLINE void add_outer_product(pack<T, A> (&acc)[Rows][Vectors], Scalars a, const S* b, Pitch pitch, index_t depth,
                                   Touch touch = {}) noexcept {
  using P = pack<T, A>;
  constexpr int used = Rows * Vectors + Vectors + 1;
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
      const P av(a[r]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[r][v] = fma(av, bv[v], acc[r][v]);
    }
    a.advance();
  }
}

/// The same product, from init(r, v) to emit(r, v, sum).
template <int Rows, int Vectors, class T, class A, class Scalars, class S, class Pitch, class Init, class Emit,
          class Touch = touch_nothing>
HEED_INLINE void outer_product(Scalars a, const S* b, Pitch pitch, index_t depth, Init init, Emit emit,
                               Touch touch = {}) noexcept {
  pack<T, A> acc[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[r][v] = init(r, v);
  add_outer_product(acc, a, b, pitch, depth, touch);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) emit(r, v, acc[r][v]);
}

}  // namespace detail
HEED_ARCH_END
