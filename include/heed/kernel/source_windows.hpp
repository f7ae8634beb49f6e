/// Which source states a target step of an encoder-decoder pair sees: masks, and the Gaussian of predicted positions.
#pragma once

#include <heed/core/sequence_offsets.hpp>
#include <heed/kernel/score.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>

#include <algorithm>
#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// How many states of each sentence count.
struct source_ends {
  sequence_lengths lengths;
  index_t states;

  int operator()(int b) const noexcept { return to_position(lengths ? lengths.at(b) : states); }
};

/// kv in [low, high] and below `end`, for every centre between two.
HEED_INLINE constexpr tile_class class_of_centres(index_t least, index_t most, index_t reach, int end, int k0,
                                                  int k1) noexcept {
  return class_of(k0 >= end || k1 - 1 < least - reach || k0 > most + reach,
                  k1 <= end && k0 >= most - reach && k1 - 1 <= least + reach);
}
HEED_INLINE constexpr key_range keys_of_centres(index_t least, index_t most, index_t reach, int end) noexcept {
  const int begin = to_position(std::max<index_t>(0, least - reach));
  return {begin, std::max(begin, to_position(std::min<index_t>(end, most + reach + 1)))};
}

/// visible = abs(kv - min(q, end - 1)) <= reach and kv < end.   A reach of `unbounded` shows all states that count.
struct step_window {
  static constexpr index_t unbounded = index_t(1) << 40;

  source_ends ends;
  index_t reach;

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    const int end = ends(at.b), last = end - 1;
    const Index centre = min(at.q, Index(last));
    // No centre is as large as the bound of a state that does not count.
    return both(centre >= (at.kv < end ? to_position(at.kv - reach) : INT_MAX), centre <= to_position(at.kv + reach));
  }

  tile_class classify(int b, int, int q0, int q1, int k0, int k1) const noexcept {
    const int end = ends(b);
    return class_of_centres(std::min(q0, end - 1), std::min(q1 - 1, end - 1), reach, end, k0, k1);
  }
  key_range keys(int b, int, int q0, int q1) const noexcept {
    const int end = ends(b);
    return keys_of_centres(std::min(q0, end - 1), std::min(q1 - 1, end - 1), reach, end);
  }
};

/// visible = abs(kv - floor(p)) <= reach and kv < end, p the position of the query, at least 0 and at most end - 1. A
/// query whose position is NaN sees all, so that its row shows it.
template <class T>
struct predicted_window {
  view<const T, 2> positions;  // [B,N]
  source_ends ends;
  index_t reach;

  template <class Index>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const noexcept {
    const int end = ends(at.b);
    const auto p = lookup(positions[at.b], at.q, T(0));
    using number = std::remove_cv_t<decltype(p)>;
    const number centre = max(number(T(0)), min(number(T(end - 1)), p));  // NaN stays
    // floor(c) >= n is c >= n, and floor(c) <= n is c < n + 1.
    const auto before = centre < number(T(at.kv - reach)), after = centre >= number(T(at.kv + reach + 1));
    return both(both(!before, !after), everywhere(at.q, at.kv < end));
  }

  tile_class classify(int b, int, int q0, int q1, int k0, int k1) const noexcept {
    const span found = centres(b, q0, q1);
    if (found.some_unknown) return k0 >= ends(b) ? tile_class::empty : tile_class::partial;
    return class_of_centres(found.least, found.most, reach, ends(b), k0, k1);
  }
  key_range keys(int b, int, int q0, int q1) const noexcept {
    const span found = centres(b, q0, q1);
    if (found.some_unknown) return {0, std::max(0, ends(b))};
    return keys_of_centres(found.least, found.most, reach, ends(b));
  }

 private:
  struct span {
    index_t least, most;
    bool some_unknown;
  };
  span centres(int b, int q0, int q1) const noexcept {
    const T last = T(std::max(0, ends(b) - 1));
    T least = last, most = T(0);
    bool unknown = false;
    for (int q = q0; q < std::min<index_t>(q1, positions.extent(1)); ++q) {
      const T p = positions(b, q);
      if (p != p) {
        unknown = true;
        continue;
      }
      least = std::min(least, std::max(T(0), p));
      most = std::max(most, std::min(last, p));
    }
    return {static_cast<index_t>(least), static_cast<index_t>(most), unknown};
  }
};

/// g(kv) = e^(-(kv - p)^2 / (2 sigma^2)) on weights, p the position of the query.
template <class T>
struct gaussian_factor {
  using value_factor_tag = void;

  view<const T, 2> positions;  // [B,N]
  T inverse_variance;          // 1 / sigma^2
  view<T, 2> gradients;        // by the positions, [B,N]; backward adds to them

  template <class P>
  struct row {
    P centre, inverse_variance;

    HEED_INLINE P operator()(int kv) const noexcept {
      const P distance = P(T(kv)) - centre;
      return exp2_bounded<precision::weight>(distance * distance * inverse_variance * P(T(-0.5) * log2_e<T>));
    }
    /// dg / dp
    HEED_INLINE P slope(int kv, P factor) const noexcept { return factor * (P(T(kv)) - centre) * inverse_variance; }
  };

  template <class U, class A>
  HEED_INLINE row<pack<U, A>> of(const basic_position<index_pack<U, A>>& at) const noexcept {
    return {lookup(positions[at.b], at.q, T(0)), pack<U, A>(inverse_variance)};
  }
  void add(const position& at, T gradient) const noexcept { gradients(at.b, at.q) += gradient; }
};

}  // namespace detail
HEED_ARCH_END
