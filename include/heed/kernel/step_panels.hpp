/// The products of a few query rows with many keys: vectors are features, and keys are read where they are, once.
#pragma once

#include <heed/kernel/source.hpp>
#include <heed/kernel/tile_panels.hpp>
#include <heed/simd/transpose.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Query rows that share the reading of a key, and keys that share a decision on their weights.
template <class T, class A>
struct step_shape {
  static constexpr int width = lanes<T, A>;
  static constexpr int rows = width < 4 ? width : 4;
  static constexpr int keys = 64;
  /// Sums in registers: of `rows_of_panel` queries with this many keys.
  static constexpr int sums = std::max(width, register_count<A> >= 32 ? 16 : 8);
  static constexpr int keys_together(int rows_of_panel) { return sums / rows_of_panel; }
  /// Rows that are converted at a time: soon enough after their reading for other reads to go on.
  static constexpr int converted = 16;
};

/// Calls what is `distance` elements further into the second-level cache. No lambda: g++ takes one that does nothing
/// else for one that does nothing.
struct call_ahead {
  index_t distance;
  template <class S>
  HEED_INLINE void operator()(const S* at) const noexcept {
    __builtin_prefetch(at + distance, 0, 2);
  }
};

/// scores[j * Rows + r] = q_r . k_j for `count` keys. Rows of queries are `pitch` apart; all rows hold `vectors`
/// vectors. Meanwhile what is `ahead` elements behind each key is called into the second-level cache.
/// Writes whole register blocks, the last past its keys. Scores have any alignment: those of a run within a block too.
template <int Rows, class T, class A, class KeyRows>
HEED_NOINLINE void dot_panel(const T* queries, index_t pitch, KeyRows keys, int count, index_t ahead, index_t vectors,
                             T* scores) noexcept {
  using P = pack<T, A>;
  using shape = step_shape<T, A>;
  constexpr int together = shape::keys_together(Rows);
  const call_ahead call{ahead};
  for (int j = 0; j < count; j += together) {
    decltype(keys[0]) key[together];
#pragma GCC unroll 16
    for (int i = 0; i < together; ++i) key[i] = keys[std::min(j + i, count - 1)];
    P sum[shape::sums];
    for (index_t e = 0; e < vectors * P::lanes; e += P::lanes) {
      P q[Rows];
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) q[r] = keep_in_register(P::load_aligned(queries + r * pitch + e));
#pragma GCC unroll 16
      for (int i = 0; i < together; ++i) {
        call(key[i] + e);
        const P k = keep_in_register(load_as<T, A>(key[i] + e));
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sum[i * Rows + r] = fma(q[r], k, sum[i * Rows + r]);
      }
    }
#pragma GCC unroll 8
    for (int s = 0; s < shape::sums; s += P::lanes) sum_each<T, A>(sum + s).store(scores + j * Rows + s);
  }
}

/// sums[r][e] += sum_j weights[j * Rows + r] v_j[e] over `count` values and the features of `vectors` vectors. Rows of
/// sums are `pitch` apart. Meanwhile as many rows from `ahead` on are called into the second-level cache.
template <int Rows, class T, class A, class S>
HEED_NOINLINE void weighted_sum_panel(const T* weights, const S* values, index_t stride, int count, const S* ahead,
                                      int vectors, T* sums, index_t pitch) noexcept {
  using P = pack<T, A>;
  for_blocks<T, A>(0, vectors, [&](auto some, int v) {
    T* const to = sums + v * P::lanes;
    outer_product<Rows, decltype(some)::value, T, A>(
        scalars<Rows>(weights, unit_step{}, fixed_step<Rows>{}), values + v * P::lanes, stride, count,
        [&](int r, int w) { return P::load_aligned(to + r * pitch + w * P::lanes); },
        [&](int r, int w, P sum) { sum.store_aligned(to + r * pitch + w * P::lanes); }, call_ahead{ahead - values});
  });
}

/// Multiplies what belongs to `count` keys, [key][row], by the scale of each.
template <int Rows, class T>
void scale_keys(T* of_keys, int count, row_scales scales) noexcept {
  if (scales.data == nullptr) return;
  for (int j = 0; j < count; ++j) {
    const T scale = static_cast<T>(scales.data[j * scales.stride]);
    for (int r = 0; r < Rows; ++r) of_keys[j * Rows + r] *= scale;
  }
}

}  // namespace detail
HEED_ARCH_END
