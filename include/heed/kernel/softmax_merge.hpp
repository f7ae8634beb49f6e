/// The state algebra of softmax attention on finished (out, lse) pairs.
#pragma once

#include <heed/core/float16.hpp>
#include <heed/simd/convert.hpp>

#include <cmath>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// Weight of state b in the merge of a and b, and the merged lse. An empty state (lse = -inf) has weight 0.
template <class T>
struct merge_weight {
  T of_second;
  T lse;
};

template <class T>
merge_weight<T> weigh_states(T a, T b) noexcept {
  constexpr T empty = -std::numeric_limits<T>::infinity();
  if (b == empty) return {T(0), a};
  if (a == empty) return {T(1), b};
  const T x = b - a;
  return {T(1) / (T(1) + std::exp(-x)), std::max(a, b) + std::log1p(std::exp(-std::abs(x)))};
}

/// out = a + weight (b - a), exact at weight 0 and 1.
template <class A, class S>
void blend_rows(const S* a, const S* b, accumulator_t<S> weight, S* out, index_t features) noexcept {
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  if (weight == T(0) || weight == T(1)) {
    const S* const only = weight == T(0) ? a : b;
    for (index_t e = 0; e < features; ++e) out[e] = only[e];
    return;
  }
  index_t e = 0;
  for (; e + P::lanes <= features; e += P::lanes) {
    const P x = load_as<T, A>(a + e), y = load_as<T, A>(b + e);
    store_as(out + e, fma(P(weight), y - x, x));
  }
  if (e < features) {
    const int rest = static_cast<int>(features - e);
    const P x = load_first_as<T, A>(a + e, rest), y = load_first_as<T, A>(b + e, rest);
    store_first_as(out + e, fma(P(weight), y - x, x), rest);
  }
}

}  // namespace detail
HEED_ARCH_END
