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
};

/// The state of a query against the keys absorbed so far, in base 2, as step_state has it. Keys and values are copies,
/// whose vectors are filled up with zeros.
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
    static_assert(converts_rows<Source, T>, "rows must fill vectors");
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    const int count = block.count();
    block.for_keys(0, count, [&](strided_rows<const T> rows, int some, int row) {
      dot_panel<1, T, A>(query_, 0, rows.data, rows.stride, some, rows.data, vectors(features_), scores_ + row);
    });
    if (bias != nullptr)
      for (int j = 0; j < count; ++j) {
        const T added = bias[j * stride];
        scores_[j] = added == nothing ? nothing : std::fma(added, log2_e<T>, scores_[j]);
      }
    std::fill(scores_ + count, scores_ + round_up(count, P::lanes), nothing);
    const index_t pitch = round_up(value_features_, P::lanes);
    weigh_scores<1, T, A>(scores_, count, vectors(value_features_), {output_, &reference_, &sum_, pitch});
    block.for_values(0, count, [&](strided_rows<const T> rows, int some, int row) {
      if (care_ == tile_care::none)
        weighted_sum_panel<1, T, A>(scores_ + row, rows.data, rows.stride, some, rows.data, vectors(value_features_),
                                    output_, pitch);
      else
        weighted_sum_carefully<1, T, A>(scores_ + row, rows.data, rows.stride, some, vectors(value_features_), output_,
                                        pitch);
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
