/// Scores of a perceptron with one hidden layer, whose halves for queries and keys are given: v . tanh(q + k).
#pragma once

#include <heed/kernel/tile_panels.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// No product of matrices: a tanh for every query, key and hidden feature, with the features in the innermost loop.
template <class T>
struct additive_score {
  using pair_score_tag = void;

  view<const T, 1> weights;  // v [A]
  view<T, 1> gradients;      // by v [A]

  /// scores[j][lane] = start[lane] + sum_a v_a tanh(q_a[lane] + k_ja), for `count` keys.
  template <int Vectors, class U, class A>
  HEED_NOINLINE void compare(strided_rows<const T> keys, int count, const T* queries, index_t features, const T* start,
                             T* scores) const noexcept {
    using P = pack<T, A>;
    constexpr int pitch = tile_shape<T, A>::queries;
    for (int j = 0; j < count; ++j) {
      P sum[Vectors];
      for (int v = 0; v < Vectors; ++v) sum[v] = P::load_aligned(start + v * P::lanes);
      for (index_t a = 0; a < features; ++a) {
        const P key(keys[j][a]), weight(weights[a]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v)
          sum[v] = fma(weight, tanh(P::load_aligned(queries + a * pitch + v * P::lanes) + key), sum[v]);
      }
      for (int v = 0; v < Vectors; ++v) sum[v].store_aligned(scores + j * pitch + v * P::lanes);
    }
  }

  /// From gradients [key][lane] by the scores, 0 where a pair takes no part: of queries [A][lane], of keys, rows
  /// `pitch` apart, and of v. Adds to all three.
  template <class U, class A>
  HEED_NOINLINE void differentiate(strided_rows<const T> keys, int count, const T* queries, index_t features, int low,
                                   int high, const T* by_score, T* by_query, T* by_key, index_t key_pitch,
                                   double* by_weight) const noexcept {
    using P = pack<T, A>;
    constexpr int pitch = tile_shape<T, A>::queries;
    for (index_t a = 0; a < features; ++a)
      for_blocks<T, A>(low, high, [&](auto vectors, int first) {
        constexpr int n = decltype(vectors)::value;
        const index_t at = a * pitch + first * P::lanes;
        const P weight(weights[a]), nothing(T(0));
        P query[n], query_sum[n], weight_sum(T(0));
        for (int v = 0; v < n; ++v) {
          query[v] = P::load_aligned(queries + at + v * P::lanes);
          query_sum[v] = P::load_aligned(by_query + at + v * P::lanes);
        }
        for (int j = 0; j < count; ++j) {
          const P key(keys[j][a]);
          P key_sum(T(0));
#pragma GCC unroll 4
          for (int v = 0; v < n; ++v) {
            const P slope = P::load_aligned(by_score + j * pitch + (first + v) * P::lanes);
            const auto none = slope == nothing;
            const P bent = tanh(query[v] + key);
            const P inner = select(none, nothing, slope * weight * (P(T(1)) - bent * bent));
            query_sum[v] += inner;
            key_sum += inner;
            weight_sum += select(none, nothing, slope * bent);
          }
          by_key[j * key_pitch + a] += reduce_add(key_sum);
        }
        for (int v = 0; v < n; ++v) query_sum[v].store_aligned(by_query + at + v * P::lanes);
        by_weight[a] += double(reduce_add(weight_sum));
      });
  }

  index_t learned() const noexcept { return weights.extent(0); }
  /// Sums of all tasks, `apart` numbers apart, in their order.
  void store_learned(const double* sums, index_t tasks, index_t apart) const noexcept {
    for (index_t a = 0; a < weights.extent(0); ++a) {
      double sum = 0;
      for (index_t task = 0; task < tasks; ++task) sum += sums[task * apart + a];
      gradients[a] = static_cast<T>(sum);
    }
  }
};

}  // namespace detail
HEED_ARCH_END
