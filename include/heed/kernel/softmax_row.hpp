/// One query and its online softmax, where queries are too few to be worth a vector of a tile: vectors are features.
#pragma once

#include <heed/kernel/key_block.hpp>
#include <heed/kernel/softmax_tile.hpp>
#include <heed/kernel/step_panel.hpp>

#include <algorithm>
#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// Queries, of `count`, that are better left to rows than to a vector of their own, which takes as long as if it were
/// full. There are `most` of them at most.
template <class T, class A>
struct spare_queries {
  static constexpr int most = std::max(1, lanes<T, A> / 4);
  static constexpr index_t of(index_t count) noexcept {
    const index_t over = count % lanes<T, A>;
    return over <= most && over < count ? over : 0;
  }
  /// Whether rows of a source can be read as vectors. Copies are filled up with zeros.
  template <class Source>
  static constexpr bool may_read(index_t features, index_t value_features) noexcept {
    return converts_rows<Source, T> || (features % lanes<T, A> == 0 && value_features % lanes<T, A> == 0);
  }
};

/// sums[e] += sum_j weights[j] v_j[e] over `count` values and the features of `vectors` vectors; `careful`: leaving out
/// those of weight 0.
template <class T, class A, class ValueRows>
HEED_NOINLINE void add_weighted_rows(const T* weights, ValueRows values, int count, int vectors, bool careful,
                                     T* sums) noexcept {
  using P = pack<T, A>;
  const auto add = [&](auto some, int v) {
    constexpr int n = decltype(some)::value;
    P sum[n];
    for (int i = 0; i < n; ++i) sum[i] = P::load_aligned(sums + (v + i) * P::lanes);
    for (int j = 0; j < count; ++j) {
      if (careful && weights[j] == T(0)) continue;
      const P weight(weights[j]);
      const T* const value = values[j] + v * P::lanes;
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) sum[i] = fma(weight, P::load(value + i * P::lanes), sum[i]);
    }
    for (int i = 0; i < n; ++i) sum[i].store_aligned(sums + (v + i) * P::lanes);
  };
  // Each sum waits for itself: enough of them for the multiply-adds of their latency.
  constexpr int most = 8;
  int v = 0;
  for (; v + most <= vectors; v += most) add(std::integral_constant<int, most>{}, v);
  for (; v + 4 <= vectors; v += 4) add(std::integral_constant<int, 4>{}, v);
  for (; v < vectors; ++v) add(std::integral_constant<int, 1>{}, v);
}

/// The state of a query against the keys absorbed so far, in base 2, as step_state has it. Keys and values are rows of
/// whole vectors.
template <class T, class A>
class softmax_row {
 public:
  using P = pack<T, A>;
  using shape = tile_shape<T, A>;

  softmax_row() = default;
  softmax_row(scratch_cursor& memory, const tile_buffers<T, A>& shared) noexcept
      : features_(shared.features),
        value_features_(shared.value_features),
        query_(memory.take<T>(round_up(features_, P::lanes))),
        output_(memory.take<T>(round_up(value_features_, P::lanes))),
        scores_(memory.take<T>(shape::keys + step_shape<T, A>::sums)) {}

  /// Loads a query, times `factor`. clear() must follow.
  template <class S>
  void load_query(const S* row, T factor) noexcept {
    convert_row<T, A>(row, query_, features_);
    for (index_t d = 0; d < features_; d += P::lanes)
      (P::load_aligned(query_ + d) * P(factor)).store_aligned(query_ + d);
  }

  void clear(tile_care care) noexcept {
    care_ = care;
    sum_ = T(0);
    reference_ = -std::numeric_limits<T>::infinity();
    std::fill_n(output_, round_up(value_features_, P::lanes), T(0));
  }

  /// Absorbs a block of keys. `bias`: one for each, `stride` apart, or null; -inf excludes its key.
  template <class Source>
  HEED_NOINLINE void absorb(const key_block<Source, T, A>& block, const T* bias, index_t stride) noexcept {
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    const int count = block.count();
    block.for_keys(0, count, [&](auto rows, int some, int row) {
      dot_panel<1, T, A>(query_, 0, rows, some, 0, vectors(features_), scores_ + row);
    });
    if (bias != nullptr)
      for (int j = 0; j < count; ++j) {
        const T added = bias[j * stride];
        scores_[j] = added == nothing ? nothing : std::fma(added, log2_e<T>, scores_[j]);
      }
    std::fill(scores_ + count, scores_ + round_up(count, P::lanes), nothing);
    const index_t pitch = round_up(value_features_, P::lanes);
    weigh_scores<1, T, A>(scores_, count, vectors(value_features_), {output_, &reference_, &sum_, pitch});
    block.for_values(0, count, [&](auto rows, int some, int row) {
      add_weighted_rows<T, A>(scores_ + row, rows, some, vectors(value_features_), care_ != tile_care::none, output_);
    });
  }

  /// Whether all outputs are.
  bool finite() const noexcept { return all_finite<T, A>(strided_rows<const T>{output_, 0}, 1, value_features_); }

  /// o / l, or 0 where nothing was visible.
  template <class S>
  void store_output(S* out) noexcept {
    const P inverse(sum_ == T(0) ? T(0) : 1 / sum_);
    index_t e = 0;
    for (; e + P::lanes <= value_features_; e += P::lanes) store_as(out + e, P::load_aligned(output_ + e) * inverse);
    if (e < value_features_)
      store_first_as(out + e, P::load_aligned(output_ + e) * inverse, static_cast<int>(value_features_ - e));
  }

  /// m + log l (natural), or -inf where nothing was visible.
  T lse() const noexcept {
    if (sum_ == T(0)) return -std::numeric_limits<T>::infinity();
    return reference_ * ln_2<T> + std::log(sum_);
  }

 private:
  static int vectors(index_t features) noexcept { return static_cast<int>(round_up(features, P::lanes) / P::lanes); }

  index_t features_ = 0, value_features_ = 0;
  T* query_ = nullptr;   // [D], times scale
  T* output_ = nullptr;  // [E]
  T* scores_ = nullptr;  // [key]: logits, then weights
  T reference_ = T(0), sum_ = T(0);
  tile_care care_ = tile_care::none;
};

}  // namespace detail
HEED_ARCH_END
