/// The products of a transposed tile that only gradients need.
#pragma once

#include <heed/kernel/tile_panels.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// weights[j][lane] = 2^(start[lane] + k_j . q_lane) for `count` keys: probabilities, if start is -lse.
template <int Vectors, class T, class A, class Rows>
HEED_NOINLINE void probability_panel(Rows keys, int count, const T* queries, index_t features, const T* start,
                                     T* weights) noexcept {
  using P = pack<T, A>;
  row_products<Vectors, T, A>(keys, count, queries, features, {start, nullptr}, [&](index_t j, int v, P z) {
    exp2_bounded<precision::weight>(z).store_aligned(weights + j * tile_shape<T, A>::queries + v * P::lanes);
  });
}

/// gradients[j][lane] = weights[j][lane] (start[lane] + v_j . dout_lane) for `count` values.
template <int Vectors, class T, class A, class Rows>
HEED_NOINLINE void logit_gradient_panel(Rows values, int count, const T* upstream, index_t features, const T* start,
                                        const T* weights, T* gradients) noexcept {
  using P = pack<T, A>;
  row_products<Vectors, T, A>(values, count, upstream, features, {start, nullptr}, [&](index_t j, int v, P c) {
    const index_t at = j * tile_shape<T, A>::queries + v * P::lanes;
    (P::load_aligned(weights + at) * c).store_aligned(gradients + at);
  });
}

/// sums[j][e] += sum_lane weights[j][lane] rows[lane][e] for `keys` keys and the features of `Vectors` vectors. Rows
/// and sums are `row_pitch` apart.
template <int Vectors, class T, class A>
HEED_NOINLINE void lane_panel(const T* weights, int keys, const T* rows, index_t row_pitch, int lane_count,
                              T* sums) noexcept {
  using P = pack<T, A>;
  constexpr int pitch = tile_shape<T, A>::queries;
  for_rows<Vectors, T, A>(keys, [&](auto some, index_t j) {
    outer_product<decltype(some)::value, Vectors, T, A>(
        scalars<decltype(some)::value>(weights + j * pitch, fixed_step<pitch>{}, unit_step{}), rows, row_pitch,
        lane_count, [&](int i, int v) { return P::load_aligned(sums + (j + i) * row_pitch + v * P::lanes); },
        [&](int i, int v, P s) { s.store_aligned(sums + (j + i) * row_pitch + v * P::lanes); });
  });
}

/// The product of lane_panel, one multiply-add at a time, leaving out pairs of weight 0.
template <class T, class A>
HEED_NOINLINE void lane_panel_carefully(const T* weights, int keys, const T* rows, index_t row_pitch, int lane_count,
                                        index_t features, T* sums) noexcept {
  using P = pack<T, A>;
  constexpr int pitch = tile_shape<T, A>::queries;
  for (int j = 0; j < keys; ++j)
    for (int i = 0; i < lane_count; ++i) {
      const T weight = weights[j * pitch + i];
      if (weight == T(0)) continue;
      for (index_t e = 0; e < features; e += P::lanes) {
        T* const sum = sums + j * row_pitch + e;
        fma(P(weight), P::load_aligned(rows + i * row_pitch + e), P::load_aligned(sum)).store_aligned(sum);
      }
    }
}

}  // namespace detail
HEED_ARCH_END
