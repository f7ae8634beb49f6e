/// One tile of queries and what a block of keys adds to gradients: of the queries, which stay with the tile, and of the
/// keys and values, which the tiles of a task add up together.
///
/// Transposed like softmax_tile. Probabilities are computed anew from the lse that forward left.
#pragma once

#include <heed/kernel/gradient_panels.hpp>
#include <heed/kernel/key_block.hpp>
#include <heed/kernel/mask_runs.hpp>
#include <heed/kernel/score.hpp>
#include <heed/kernel/tile_io.hpp>
#include <heed/kernel/tile_scores.hpp>

#include <algorithm>
#include <limits>
#include <tuple>

HEED_ARCH_BEGIN
namespace detail {

/// Memory of one worker that serves whichever tile is at work.
template <class T, class A>
struct gradient_buffers : tile_buffers<T, A> {
  using shape = tile_shape<T, A>;

  gradient_buffers(scratch_cursor& memory, index_t d, index_t e, bool convert, bool with_bias) noexcept
      : tile_buffers<T, A>(memory, d, e, convert, with_bias),
        gradients(memory.take<T>(shape::keys * shape::queries)),
        key_pitch(conflict_free_pitch<T>(d)),
        value_pitch(conflict_free_pitch<T>(e)),
        key_sums(memory.take<T>(shape::keys * key_pitch)),
        value_sums(memory.take<T>(shape::keys * value_pitch)) {}

  T* gradients;  // [key][lane]: beside `scores`, which become probabilities, those of the scores
  index_t key_pitch, value_pitch;
  T* key_sums;    // [key][key_pitch]: what the tiles of a task give to a block of keys, but for the scale
  T* value_sums;  // [key][value_pitch]
};

/// What a tile reads of `count` query rows, first row first.
template <class S>
struct gradient_tile_rows {
  using T = accumulator_t<S>;
  const S* q;
  index_t q_stride;
  const S* out;
  index_t out_stride;
  const S* dout;
  index_t dout_stride;
  const T* lse;
  index_t lse_stride;
  const T* dlse;  // or null
  index_t dlse_stride;
};

/// sum_e dout_e out_e - dlse: what the softmax takes from the gradient of every probability of a row.
template <class T, class A, class S>
T gradient_mean(const S* dout, const S* out, index_t features, T dlse) noexcept {
  using P = pack<T, A>;
  P sum(T(0));
  index_t e = 0;
  for (; e + P::lanes <= features; e += P::lanes) sum = fma(load_as<T, A>(dout + e), load_as<T, A>(out + e), sum);
  if (e < features) {
    const int rest = static_cast<int>(features - e);
    sum = fma(load_first_as<T, A>(dout + e, rest), load_first_as<T, A>(out + e, rest), sum);
  }
  return reduce_add(sum) - dlse;
}

template <class T, class A>
class gradient_tile {
 public:
  using P = pack<T, A>;
  using shape = tile_shape<T, A>;
  static constexpr int width = shape::width;
  static constexpr int pitch = shape::queries;

  gradient_tile() = default;
  gradient_tile(scratch_cursor& memory, const gradient_buffers<T, A>& shared) noexcept
      : buffers_(&shared),
        queries_(memory.take<T>(shared.features * pitch)),
        upstream_(memory.take<T>(shared.value_features * pitch)),
        query_gradients_(memory.take<T>(shared.features * pitch)),
        query_rows_(memory.take<T>(pitch * shared.key_pitch)),
        upstream_rows_(memory.take<T>(pitch * shared.value_pitch)),
        start_(memory.take<T>(pitch)),
        offset_(memory.take<T>(pitch)) {}

  int count() const noexcept { return count_; }

  /// Loads `count` rows; queries times `factor` where they meet keys. Rows that see nothing count as zeros.
  template <class S>
  void load(const gradient_tile_rows<S>& rows, int count, T factor) noexcept {
    const index_t d = buffers_->features, e = buffers_->value_features;
    count_ = count;
    groups_ = (count + width - 1) / width;
    std::fill_n(start_, pitch, -std::numeric_limits<T>::infinity());
    std::fill_n(offset_, pitch, T(0));
    for (int i = 0; i < count; ++i) {
      T* const query = query_rows_ + i * buffers_->key_pitch;
      T* const upstream = upstream_rows_ + i * buffers_->value_pitch;
      const T lse = rows.lse[i * rows.lse_stride];
      if (lse == -std::numeric_limits<T>::infinity()) {
        std::fill_n(query, round_up(d, width), T(0));
        std::fill_n(upstream, round_up(e, width), T(0));
        continue;
      }
      const S* const dout = rows.dout + i * rows.dout_stride;
      convert_row<T, A>(rows.q + i * rows.q_stride, query, d);
      convert_row<T, A>(dout, upstream, e);
      start_[i] = -lse * log2_e<T>;
      offset_[i] = -gradient_mean<T, A>(dout, rows.out + i * rows.out_stride, e,
                                        rows.dlse != nullptr ? rows.dlse[i * rows.dlse_stride] : T(0));
    }
    for (int g = 0; g < groups_; ++g) {
      const int some = std::min(width, count - g * width);
      load_transposed<pitch>(query_rows_ + g * width * buffers_->key_pitch, buffers_->key_pitch, some, d, P(factor),
                             queries_ + g * width);
      load_transposed<pitch>(upstream_rows_ + g * width * buffers_->value_pitch, buffers_->value_pitch, some, e,
                             P(T(1)), upstream_ + g * width);
    }
    // Products with weights of zero leave excluded pairs out, unless what they multiply is infinite or NaN.
    finite_queries_ = all_finite<T, A>(strided_rows<const T>{query_rows_, buffers_->key_pitch}, count, d);
    finite_upstream_ = all_finite<T, A>(strided_rows<const T>{upstream_rows_, buffers_->value_pitch}, count, e);
    std::fill_n(query_gradients_, d * pitch, T(0));
  }

  /// Adds what a block of keys gives to the gradients of this tile's queries, and what these give to the sums of the
  /// block. Arguments as those of softmax_tile::absorb; `finite_keys`: all keys of the block are finite.
  /// Gradients by what the score mods learn are added to `parameter_sums`.
  template <class Source, class Mask, class... Mods>
  void absorb(const key_block<Source, T, A>& block, tile_place place, bool finite_keys, const T* bias, T log_weight2,
              bool partial, const Mask& mask, const score_chain<Mods...>& chain, double* parameter_sums) {
    tile_run runs[most_runs<T, A>];
    const int used = split_by_mask<T, A>(mask, place, count_, block.count(), partial, runs);
    const bool excludes = bias != nullptr || sizeof...(Mods) > 0;
    for (int i = 0; i < used; ++i) {
      const tile_run& run = runs[i];
      differentiate<by_product>(block, run, place, bias, log_weight2, mask, chain, parameter_sums);
      const bool careful = excludes || run.masked != 0;
      add_to_values(run.part, careful);
      if constexpr (score_chain<Mods...>::has_pair_score) {
        add_by_pairs(block, run.part, chain.pair_score(), parameter_sums + chain.parameters);
      } else {
        add_to_keys(run.part, careful);
        add_to_queries(block, run.part, careful && !finite_keys);
      }
    }
  }

  /// Gradients by the logits that score mods from number `First` on start from, of the pairs that the mask shows: calls
  /// use(part) for parts of the block, while their gradients are in buffers.gradients and, in buffers.scores, what mod
  /// First - 1 was given. Arguments as those of absorb.
  template <int First, class Source, class Mask, class... Mods, class Use>
  void differentiate_logits(const key_block<Source, T, A>& block, tile_place place, const T* bias, T log_weight2,
                            bool partial, const Mask& mask, const score_chain<Mods...>& chain, Use use) {
    tile_run runs[most_runs<T, A>];
    const int used = split_by_mask<T, A>(mask, place, count_, block.count(), partial, runs);
    for (int i = 0; i < used; ++i) {
      const tile_part& part = runs[i].part;
      differentiate<First>(block, runs[i], place, bias, log_weight2, mask, chain, nullptr);
      clear_idle_lanes(part);
      use(part);
    }
  }

  /// The gradients of the queries, times `factor`, to `count` rows.
  template <class S>
  void store(S* dq, index_t stride, T factor) const noexcept {
    for (int i = 0; i < count_; ++i) prefetch_row<1>(dq + i * stride, buffers_->features);
    for (int g = 0; g < groups_; ++g)
      store_transposed<pitch>(query_gradients_ + g * width, buffers_->features, P(factor), dq + g * width * stride,
                              stride, std::min(width, count_ - g * width));
  }

 private:
  static constexpr int by_product = -1;

  /// Probabilities and the gradients of products of a run, in the buffers. Both are 0 for excluded pairs. Or, as
  /// differentiate_logits says, with `First` from 0 on.
  template <int First, class Source, class Mask, class... Mods>
  void differentiate(const key_block<Source, T, A>& block, const tile_run& run, tile_place place, const T* bias,
                     T log_weight2, const Mask& mask, const score_chain<Mods...>& chain, double* parameter_sums) {
    alignas(64) static constexpr T zeros[pitch] = {};
    alignas(64) T start[pitch];
    for (int g = run.part.low; g < run.part.high; ++g)
      (P::load_aligned(start_ + g * width) + P(log_weight2)).store_aligned(start + g * width);
    // Whether panels can finish what they have in registers.
    constexpr bool may_fuse = First == by_product && sizeof...(Mods) == 0;
    const bool fused = may_fuse && chain.plain() && bias == nullptr && run.masked == 0;
    T* const weights = buffers_->scores;
    T* const gradients = buffers_->gradients;
    block.for_keys(run.part.first, run.part.count, [&](auto rows, int count, int row) {
      for_blocks<T, A>(run.part.low, run.part.high, [&](auto vectors, int v) {
        constexpr int n = decltype(vectors)::value;
        const T* const queries = queries_ + v * width;
        T* const to = weights + row * pitch + v * width;
        if constexpr (may_fuse) {
          if (fused) {
            probability_panel<n, T, A>(rows, count, queries, buffers_->features, start + v * width, to);
            return;
          }
        }
        compare_panel<n, T, A>(rows, count, queries, buffers_->features, (chain.plain() ? start : zeros) + v * width,
                               to, chain);
      });
    });
    block.for_values(run.part.first, run.part.count, [&](auto rows, int count, int row) {
      for_blocks<T, A>(run.part.low, run.part.high, [&](auto vectors, int v) {
        constexpr int n = decltype(vectors)::value;
        const T* const upstream = upstream_ + v * width;
        const index_t at = row * pitch + v * width;
        if constexpr (may_fuse) {
          if (fused) {
            logit_gradient_panel<n, T, A>(rows, count, upstream, buffers_->value_features, offset_ + v * width,
                                          weights + at, gradients + at);
            return;
          }
        }
        // The offset is no part of what a factor multiplies.
        const T* const offset = score_chain<Mods...>::has_value_factor ? zeros : offset_;
        key_panel<n, T, A>(rows, count, upstream, buffers_->value_features, {offset + v * width, nullptr},
                           gradients + at);
      });
    });
    if (!fused) differentiate_scores<First>(run, place, bias, start, mask, chain, parameter_sums);
  }

  /// From stored products and gradients of probabilities to probabilities and gradients of products.
  template <int First, class Mask, class... Mods>
  void differentiate_scores(const tile_run& run, tile_place place, const T* bias, const T* start, const Mask& mask,
                            const score_chain<Mods...>& chain, double* parameter_sums) {
    constexpr int parameters = First == by_product ? score_chain<Mods...>::parameters : 0;
    using number = dual<P, 1 + parameters>;
    const bool plain = chain.plain();
    const score_steps<T, A, Mods...> to_logit(chain);
    const P nothing(T(0));
    for (int v = run.part.low; v < run.part.high; ++v) {
      basic_position<index_pack<T, A>> at = queries_at<T, A>(place, v);
      const P first = P::load_aligned(start + v * width);
      const auto factors = factors_of(chain, at);
      P sums[parameters + 1], moved(T(0));
      for (int j = run.part.first; j < run.part.first + run.part.count; ++j) {
        at.kv = place.key + j;
        const index_t here = j * pitch + v * width;
        P z = P::load_aligned(buffers_->scores + here);
        const T* const added = bias == nullptr ? nullptr : bias + here;
        number logit = number::variable(z);
        P given(T(0));
        if constexpr (First != by_product) {
          constexpr int before = First > 0 ? First - 1 : 0;
          given = to_logit.template modify<0, before>(to_logit.biased(z, added, true), at);
          logit = number::variable(to_logit.template modify<before, First>(given, at));
          logit = to_logit.template modify<First, int(sizeof...(Mods))>(logit, at);
          to_logit.exclude(logit, added);
          z = plain ? logit.value : fma(logit.value, P(log2_e<T>), first);
        } else if (!plain) {
          logit = to_logit(logit, added, true, at);
          z = fma(logit.value, P(log2_e<T>), first);
        } else if (added != nullptr) {
          z = to_logit(z, added, true, at);
        }
        if ((run.masked >> j / shape::mask_keys & 1u) != 0)
          z = select(visible<T, A>(mask, at, v), z, P(-std::numeric_limits<T>::infinity()));
        const P p = exp2_bounded<precision::weight>(z);
        P upstream = P::load_aligned(buffers_->gradients + here), weight = p;
        const auto none = p == nothing;
        if constexpr (score_chain<Mods...>::has_value_factor) {
          const P factor = factors(at.kv);
          moved += select(none, nothing, p * upstream * factors.slope(at.kv, factor));
          upstream = fma(factor, upstream, P::load_aligned(offset_ + v * width));
          weight = p * factor;
        }
        const P gradient = p * upstream;
        (First == by_product ? weight : given).store_aligned(buffers_->scores + here);
        select(none, nothing, gradient * logit.partial[0]).store_aligned(buffers_->gradients + here);
        for (int m = 0; m < parameters; ++m) sums[m] += select(none, nothing, gradient * logit.partial[1 + m]);
      }
      for (int m = 0; m < parameters; ++m) parameter_sums[m] += double(reduce_add(sums[m]));
      if constexpr (score_chain<Mods...>::has_value_factor) {
        alignas(64) T each[width];
        moved.store_aligned(each);
        for (int i = 0; i < std::min(width, count_ - v * width); ++i)
          chain.value_factor().add(position{place.b, place.h, place.query + v * width + i, place.key}, each[i]);
      }
    }
  }

  /// The factors of a chain for the queries of a vector, if it has any.
  template <class... Mods>
  static auto factors_of(const score_chain<Mods...>& chain, const basic_position<index_pack<T, A>>& at) noexcept {
    if constexpr (score_chain<Mods...>::has_value_factor)
      return chain.value_factor().template of<T, A>(at);
    else
      return std::tuple<>();
  }

  /// Lanes without a query may hold anything.
  void clear_idle_lanes(tile_part part) noexcept {
    for (int j = part.first; j < part.first + part.count && part.high * width > count_; ++j)
      std::fill(buffers_->gradients + j * pitch + count_, buffers_->gradients + j * pitch + part.high * width, T(0));
  }

  /// What a pair score makes of the gradients by scores: those of queries, keys and what it learns.
  template <class Source, class PairScore>
  void add_by_pairs(const key_block<Source, T, A>& block, tile_part part, const PairScore& score,
                    double* learned) noexcept {
    clear_idle_lanes(part);
    block.for_keys(part.first, part.count, [&](auto rows, int count, int row) {
      score.template differentiate<T, A>(rows, count, queries_, buffers_->features, part.low, part.high,
                                         buffers_->gradients + row * pitch, query_gradients_,
                                         buffers_->key_sums + row * buffers_->key_pitch, buffers_->key_pitch, learned);
    });
  }

  void add_to_keys(tile_part part, bool careful) noexcept {
    const int lane = part.low * width, some = std::min(count_, part.high * width) - lane;
    add_lanes(buffers_->gradients + part.first * pitch + lane, part.count, query_rows_ + lane * buffers_->key_pitch,
              buffers_->key_pitch, some, buffers_->features, buffers_->key_sums + part.first * buffers_->key_pitch,
              careful && !finite_queries_);
  }

  void add_to_values(tile_part part, bool careful) noexcept {
    const int lane = part.low * width, some = std::min(count_, part.high * width) - lane;
    const index_t at = part.first * pitch + lane;
    add_lanes(buffers_->scores + at, part.count, upstream_rows_ + lane * buffers_->value_pitch, buffers_->value_pitch,
              some, buffers_->value_features, buffers_->value_sums + part.first * buffers_->value_pitch,
              careful && !finite_upstream_);
  }

  static void add_lanes(const T* weights, int keys, const T* rows, index_t row_pitch, int some, index_t features,
                        T* sums, bool one_by_one) noexcept {
    if (one_by_one) {
      lane_panel_carefully<T, A>(weights, keys, rows, row_pitch, some, features, sums);
      return;
    }
    for_blocks<T, A>(0, static_cast<int>((features + width - 1) / width), [&](auto vectors, int v) {
      lane_panel<decltype(vectors)::value, T, A>(weights, keys, rows + v * width, row_pitch, some, sums + v * width);
    });
  }

  template <class Source>
  void add_to_queries(const key_block<Source, T, A>& block, tile_part part, bool one_by_one) noexcept {
    block.for_keys(part.first, part.count, [&](auto rows, int count, int row) {
      for_blocks<T, A>(part.low, part.high, [&](auto vectors, int v) {
        const T* const gradients = buffers_->gradients + row * pitch + v * width;
        if (one_by_one)
          value_panel_carefully<T, A>(rows, count, gradients, decltype(vectors)::value, buffers_->features,
                                      query_gradients_ + v * width);
        else
          value_panel<decltype(vectors)::value, T, A>(rows, count, gradients, buffers_->features,
                                                      {query_gradients_ + v * width, pitch},
                                                      query_gradients_ + v * width);
      });
    });
  }

  const gradient_buffers<T, A>* buffers_ = nullptr;
  T* queries_ = nullptr;          // [D][lane], times scale
  T* upstream_ = nullptr;         // [E][lane], of the output
  T* query_gradients_ = nullptr;  // [D][lane], but for the scale
  T* query_rows_ = nullptr;       // [lane][key_pitch]
  T* upstream_rows_ = nullptr;    // [lane][value_pitch]
  T* start_ = nullptr;            // [lane]: -lse in base 2
  T* offset_ = nullptr;           // [lane]: -gradient_mean
  int count_ = 0;
  int groups_ = 0;
  bool finite_queries_ = true, finite_upstream_ = true;
};

}  // namespace detail
HEED_ARCH_END
