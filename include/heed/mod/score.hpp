/// Score mods: softcap, tanh_score, alibi, symmetric_alibi, relative_bias with T5 buckets, temperature, log_activation.
///
/// Each is called as f(score, at) -> score, on numbers and on packs. A head that a table does not have is left alone.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/tensor.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>
#include <heed/mod/table.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// A parameter in the type of the score, so that float scores are computed in float. Other score types convert it.
template <class S>
HEED_INLINE constexpr auto parameter(const S&, double x) noexcept {
  if constexpr (std::floating_point<S>)
    return static_cast<S>(x);
  else
    return x;
}

}  // namespace detail

/// Bounded scores.   z = cap * tanh(score / cap)
/// The same as the operator's own `softcap`, except that it may stand after other score mods.
/// Throws heed::invalid_argument: cap not positive or not finite.
class softcap {
 public:
  explicit softcap(double cap) : cap_(cap) {
    detail::checker("softcap").require(cap > 0 && cap < __builtin_inf(), "cap", "positive and finite", cap);
  }

  template <class S, class Index>
  HEED_INLINE S operator()(S score, const basic_position<Index>&) const {
    const auto cap = detail::parameter(score, cap_);
    return cap * tanh(score / cap);
  }

 private:
  double cap_;
};

/// Scores in (-1, 1).   z = tanh(score)
struct tanh_score {
  template <class S, class Index>
  HEED_INLINE S operator()(S score, const basic_position<Index>&) const {
    return tanh(score);
  }
};

/// The slope that ALiBi gives head h of `heads`. With n the largest power of two not above heads:
///     h < n: 2^(-8 (h + 1) / n)        h >= n: 2^(-4 (2 (h - n) + 1) / n)
inline double alibi_slope(index_t h, index_t heads) noexcept {
  index_t n = 1;
  while (2 * n <= heads) n *= 2;
  const auto step = static_cast<double>(h < n ? 2 * (h + 1) : 2 * (h - n) + 1);
  return exp2(-4 * step / static_cast<double>(n));
}

/// [heads], for alibi. Throws heed::invalid_argument: heads < 0.
inline tensor<double, 1> alibi_slopes(index_t heads) {
  detail::checker("alibi_slopes").require(heads >= 0, "heads", "at least 0", heads);
  tensor<double, 1> slopes({heads});
  for (index_t h = 0; h < heads; ++h) slopes(h) = alibi_slope(h, heads);
  return slopes;
}

/// Attention with linear biases, for causal use.   z = score - slope[h] * (q - kv)
/// slopes: [H] of float or double, a view, tensor or container that outlives the mod; alibi_slopes(H) makes the usual
/// ones.
/// Paper: Press, Smith, Lewis, Train Short, Test Long (2022).
template <class U>
class alibi {
 public:
  template <detail::row_of<U> C>
  explicit alibi(C&& slopes) noexcept : slopes_(detail::as_row<U>(std::forward<C>(slopes))) {}

  template <class S, class Index>
  HEED_INLINE S operator()(S score, const basic_position<Index>& at) const {
    const auto slope = detail::parameter(score, lookup(slopes_, at.h, U(0)));
    return score - slope * to_real(score, at.q - at.kv);
  }

 private:
  view<const U, 1> slopes_;
};
template <class C>
alibi(C&&) -> alibi<detail::element_in_t<C>>;

/// ALiBi where keys lie on both sides of the query.   z = score - slope[h] * abs(q - kv)
/// slopes: as in alibi.
template <class U>
class symmetric_alibi {
 public:
  template <detail::row_of<U> C>
  explicit symmetric_alibi(C&& slopes) noexcept : slopes_(detail::as_row<U>(std::forward<C>(slopes))) {}

  template <class S, class Index>
  HEED_INLINE S operator()(S score, const basic_position<Index>& at) const {
    const auto slope = detail::parameter(score, lookup(slopes_, at.h, U(0)));
    return score - slope * to_real(score, abs(at.q - at.kv));
  }

 private:
  view<const U, 1> slopes_;
};
template <class C>
symmetric_alibi(C&&) -> symmetric_alibi<detail::element_in_t<C>>;

/// A learned bias by distance, clipped at R.   z = score + table[h, clamp(kv - q, -R, R) + R]
/// table: [H, 2 R + 1] of float or double, or [1, 2 R + 1] or [2 R + 1] for all heads; a view or tensor that outlives
/// the mod (a container, if it is one row). Biases by T5 buckets: expand them first, with t5_expand.
/// gradients: softmax_backward adds to it what each element of the table gets; of the table's extents ([1, 2 R + 1] for
/// one row), default none.
/// Throws heed::invalid_argument: an even number of distances, other extents of gradients.
template <class U>
class relative_bias {
 public:
  template <class C>
    requires(detail::table_of<C, U, 2> || detail::row_of<C, U>)
  explicit relative_bias(C&& table, view<double, 2> gradients = {})
      : table_(detail::as_rows<U>(std::forward<C>(table))), gradients_(gradients) {
    const detail::checker check("relative_bias");
    const index_t distances = table_.extent(1);
    check.require(distances % 2 == 1, "table", "2 R + 1 distances", distances);
    reach_ = static_cast<int>(distances / 2);
    if (!gradients) return;
    for (int axis = 0; axis < 2; ++axis) check.extent(gradients, "gradients", axis, table_.extent(axis), "as table");
  }

  template <class S, class Index>
  HEED_INLINE S operator()(S score, const basic_position<Index>& at) const {
    const auto distance = min(max(at.kv - at.q, -reach_), reach_);
    return static_cast<S>(score + lookup(detail::shared_row(table_, at.h), distance + reach_, 0));
  }

  bool accumulates() const noexcept { return static_cast<bool>(gradients_); }
  bool one_head_at_a_time() const noexcept { return table_.extent(0) == 1; }
  template <class T>
  void accumulate(T dz, T, const position& at) const noexcept {
    const int row = table_.extent(0) == 1 ? 0 : at.h;
    if (row < table_.extent(0)) gradients_(row, min(max(at.kv - at.q, -reach_), reach_) + reach_) += double(dz);
  }

 private:
  view<const U, 2> table_;
  view<double, 2> gradients_;
  int reach_;
};
template <class C>
relative_bias(C&&) -> relative_bias<detail::element_in_t<C>>;
template <class C>
relative_bias(C&&, view<double, 2>) -> relative_bias<detail::element_in_t<C>>;

/// The buckets of distances kv - q that T5 shares biases over: single distances near by, then logarithmic ones up to
/// max_distance, the last one for all beyond. With n = distance to the query, K buckets a side and e = K / 2:
///     n < e: n        else: min(K - 1, e + floor(log(n / e) / log(max_distance / e) * (K - e)))
/// bidirectional: K = buckets / 2, keys after the query use the second half. Otherwise K = buckets and they all share
/// bucket 0. The floor is that of the exact real number.
/// Throws heed::invalid_argument: fewer than 2 buckets a side, an odd number of them for two sides, max_distance <= e.
/// Paper: Raffel et al., Exploring the Limits of Transfer Learning (2020).
class t5_buckets {
 public:
  explicit t5_buckets(int buckets = 32, int max_distance = 128, bool bidirectional = true)
      : buckets_(buckets), max_distance_(max_distance), bidirectional_(bidirectional) {
    const detail::checker check("t5_buckets");
    check.require(buckets >= (bidirectional ? 4 : 2), "buckets", "at least 2 a side", buckets);
    check.require(!bidirectional || buckets % 2 == 0, "buckets", "an even number", buckets);
    check.require(max_distance > side() / 2, "max_distance", "more than half the buckets of a side", max_distance);
  }

  int buckets() const noexcept { return buckets_; }
  int max_distance() const noexcept { return max_distance_; }

  int operator()(int distance) const noexcept {
    const int last = side() - 1, exact = side() / 2;
    const int base = bidirectional_ && distance > 0 ? side() : 0;
    const int n = distance > 0 ? (bidirectional_ ? distance : 0) : -max(distance, -max_distance_);
    if (n < exact) return base + n;
    if (n >= max_distance_) return base + last;
    const double steps = log(double(n) / exact) / log(double(max_distance_) / exact) * (side() - exact);
    // Where the real number is an integer, rounding must not fall below it.
    return base + min(last, exact + static_cast<int>(steps + 1e-9));
  }

 private:
  int side() const noexcept { return bidirectional_ ? buckets_ / 2 : buckets_; }

  int buckets_, max_distance_;
  bool bidirectional_;
};

/// The table of relative_bias that T5 biases amount to.   expanded[h, d + R] = table[h, bucket(d)], R = max_distance
/// table: [H, buckets], any strides (a model that stores [buckets, H] passes its view with swap_axes(0, 1)).
/// Throws heed::invalid_argument: another number of buckets.
template <class U>
tensor<U, 2> t5_expand(const view<const U, 2>& table, const t5_buckets& bucket) {
  detail::checker("t5_expand").extent(table, "table", 1, bucket.buckets(), "the number of buckets");
  const int reach = bucket.max_distance();
  tensor<U, 2> expanded({table.extent(0), 2 * index_t(reach) + 1});
  for (int d = -reach; d <= reach; ++d)
    for (index_t h = 0; h < table.extent(0); ++h) expanded(h, d + reach) = table(h, bucket(d));
  return expanded;
}

/// The gradient of the T5 table from that of the expanded one.
///     grad[h, u] += sum over d in bucket u of expanded[h, d + R]
/// Throws heed::invalid_argument: extents that t5_expand would not give.
template <class U>
void t5_fold(const view<const U, 2>& expanded, const t5_buckets& bucket, const view<U, 2>& grad) {
  const detail::checker check("t5_fold");
  const int reach = bucket.max_distance();
  check.extent(grad, "grad", 1, bucket.buckets(), "the number of buckets");
  check.extent(expanded, "expanded", 0, grad.extent(0), "H, the extent of grad");
  check.extent(expanded, "expanded", 1, 2 * index_t(reach) + 1, "2 max_distance + 1");
  for (index_t h = 0; h < grad.extent(0); ++h)
    for (int d = -reach; d <= reach; ++d) grad(h, bucket(d)) += expanded(h, d + reach);
}

/// A factor for each head.   z = factor[h] * score
/// factors: [H] of float or double, a view, tensor or container that outlives the mod; one over the temperature.
template <class U>
class temperature {
 public:
  template <detail::row_of<U> C>
  explicit temperature(C&& factors) noexcept : factors_(detail::as_row<U>(std::forward<C>(factors))) {}

  template <class S, class Index>
  HEED_INLINE S operator()(S score, const basic_position<Index>& at) const {
    return detail::parameter(score, lookup(factors_, at.h, U(1))) * score;
  }

 private:
  view<const U, 1> factors_;
};
template <class C>
temperature(C&&) -> temperature<detail::element_in_t<C>>;

/// Weights of another shape than exp.   z = log(f(score) + c), so that a key weighs f(score) + c
/// f: callable on scores (generic for packs), never below -c. c > 0 keeps the logarithm finite.
/// Unnormalised sums come back as sum_j f(s_j) v_j = out * exp(lse) - c * sum_j v_j.
/// Throws heed::invalid_argument: c not positive or not finite.
template <class F>
class log_activation {
 public:
  log_activation(F f, double c) : f_(std::move(f)), c_(c) {
    detail::checker("log_activation").require(c > 0 && c < __builtin_inf(), "c", "positive and finite", c);
  }

  template <class S, class Index>
    requires std::invocable<const F&, S>
  HEED_INLINE S operator()(S score, const basic_position<Index>&) const {
    return log(f_(score) + detail::parameter(score, c_));
  }

 private:
  F f_;
  double c_;
};

HEED_ARCH_END
