/// One tile of queries and its online softmax: products, exponentials, sums and the state (o, m, l) they leave behind.
///
/// Everything is transposed: a lane of a vector is a query, so row maxima, sums and rescaling are vertical operations,
/// masks act on whole vectors, and keys and values are read where they are, one scalar at a time, at any stride and any
/// head size.
#pragma once

#include <heed/kernel/key_block.hpp>
#include <heed/kernel/mask_runs.hpp>
#include <heed/kernel/score.hpp>
#include <heed/kernel/tile_io.hpp>
#include <heed/kernel/tile_panels.hpp>
#include <heed/kernel/tile_scores.hpp>

#include <algorithm>
#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// What a tile guards against. Each level costs more than the one before; finite() tells when a level was not enough.
enum class tile_care {
  none,    // infinities and NaN of excluded pairs enter the state, times zero
  values,  // they do not; where they are absent, every bit is as without care
  range    // nor do weights above 1: large values do not overflow
};

/// The state of `queries` query rows against the keys absorbed so far, in base 2:
///   reference m [lane]         what weights are relative to, near the greatest logit seen; -inf before the first
///                              visible key
///   sum       l [lane]         sum of 2^(z - m)
///   output    o [feature][lane] sum of 2^(z - m) v
/// Tile buffers are [row][lane] with a pitch of `queries` lanes.
template <class T, class A>
class softmax_tile {
 public:
  using P = pack<T, A>;
  using shape = tile_shape<T, A>;
  static constexpr int width = shape::width;
  static constexpr int pitch = shape::queries;

  softmax_tile() = default;
  /// Takes the tile's memory from a cursor; the buffers are shared by all tiles of a worker.
  softmax_tile(scratch_cursor& memory, const tile_buffers<T, A>& shared) noexcept
      : features_(shared.features),
        value_features_(shared.value_features),
        queries_(memory.take<T>(features_ * pitch)),
        output_(memory.take<T>(value_features_ * pitch)),
        reference_(memory.take<T>(pitch)),
        sum_(memory.take<T>(pitch)),
        scores_(shared.scores) {}

  int count() const noexcept { return count_; }
  int vectors() const noexcept { return groups_; }

  /// Loads `count` query rows, times `factor`. clear() or resume() must follow.
  template <class S>
  HEED_NOINLINE void load_queries(const S* rows, index_t stride, int count, T factor) noexcept {
    load_queries(strided_rows<const S>{rows, stride}, count, factor);
  }
  /// The same of rows[i], wherever each is.
  template <class Rows>
  HEED_NOINLINE void load_queries(const Rows& rows, int count, T factor) noexcept {
    hold(count);
    load_lanes<pitch>(rows, count, features_, pack<T, A>(factor), queries_);
  }

  /// A state for `count` queries that will meet no key.
  void hold(int count) noexcept {
    count_ = count;
    groups_ = (count + width - 1) / width;
  }

  /// Empties the state, keeps the queries.
  void clear(tile_care care) noexcept {
    care_ = care;
    begun_ = 0;
    std::fill_n(sum_, pitch, T(0));
    // Lanes without a query hold zeros: a finite reference keeps them from asking for one.
    std::fill_n(reference_, pitch, T(0));
    std::fill_n(reference_, count_, -std::numeric_limits<T>::infinity());
    settled_ = 0;
    trusted_ = true;
  }

  /// Takes up a state that store_state left: `outputs` rows, and a reference and a sum for each.
  HEED_NOINLINE void resume(tile_care care, const T* outputs, index_t stride, const T* references,
                            const T* sums) noexcept {
    care_ = care;
    load_lanes<pitch>(outputs, stride, count_, value_features_, P(T(1)), output_);
    begun_ = all_vectors(0, groups_);
    std::fill_n(sum_, pitch, T(0));
    std::fill_n(reference_, pitch, T(0));
    std::copy_n(sums, count_, sum_);
    std::copy_n(references, count_, reference_);
    settled_ = 0;
    for (int g = 0; g < groups_; ++g)
      if (!any(P::load_aligned(reference_ + g * width) == P(-std::numeric_limits<T>::infinity()))) settled_ |= 1u << g;
    trusted_ = true;
  }

  void store_state(T* outputs, index_t stride, T* references, T* sums) noexcept {
    begin_output(0, groups_);
    for (int g = 0; g < groups_; ++g)
      store_transposed<pitch>(output_ + g * width, value_features_, P(T(1)), outputs + g * width * stride, stride,
                              std::min(width, count_ - g * width));
    std::copy_n(sum_, count_, sums);
    std::copy_n(reference_, count_, references);
  }

  /// Absorbs a block of keys, of which the mask may hide any pair if `partial`, none otherwise. `bias`: [key][lane], or
  /// null. `log_weight2` is added to every base-2 logit. What `ahead` holds is called meanwhile, over one unit of
  /// work for each key and vector of queries.
  template <class Source, class Mask, class... Mods>
  HEED_NOINLINE void absorb(const key_block<Source, T, A>& block, tile_place place, const T* bias, T log_weight2,
                            bool partial, prefetcher& ahead, const Mask& mask, const score_chain<Mods...>& chain) {
    tile_run runs[most_runs<T, A>];
    const int used = split_by_mask<T, A>(mask, place, count_, block.count(), partial, runs);
    for (int i = 0; i < used; ++i) {
      const bool excluded = weigh(block, runs[i], place, bias, log_weight2, ahead, mask, chain);
      if constexpr (score_chain<Mods...>::has_value_factor) multiply_weights(runs[i].part, place, chain.value_factor());
      add_values(block, runs[i].part, care_ != tile_care::none && (excluded || runs[i].masked != 0));
    }
  }

  /// Merges one more logit per query, without a value: an attention sink. Natural log.
  void absorb_sink(T logit) noexcept {
    const T logit2 = logit * log2_e<T>;
    if (logit2 == -std::numeric_limits<T>::infinity()) return;
    alignas(64) T top[pitch];
    for (int g = 0; g < groups_; ++g) P(logit2).store_aligned(top + g * width);
    raise_reference(top, {0, 0, 0, groups_});
    for (int g = 0; g < groups_; ++g) {
      const P weight = exp2_bounded<precision::weight>(P(logit2) - P::load_aligned(reference_ + g * width));
      (P::load_aligned(sum_ + g * width) + weight).store_aligned(sum_ + g * width);
    }
  }

  /// Whether all outputs are.
  HEED_NOINLINE bool finite() noexcept {
    begin_output(0, groups_);
    alignas(64) T zeros[pitch];
    for (int g = 0; g < groups_; ++g) {
      // x * 0 is 0 for finite x and NaN otherwise. One sum would wait for itself.
      P sums[4] = {P(T(0)), P(T(0)), P(T(0)), P(T(0))};
      const T* output = output_ + g * width;
      index_t e = 0;
      for (; e + 4 <= value_features_; e += 4, output += 4 * pitch)
        for (int i = 0; i < 4; ++i) sums[i] = fma(P::load_aligned(output + i * pitch), P(T(0)), sums[i]);
      for (; e < value_features_; ++e, output += pitch) sums[0] = fma(P::load_aligned(output), P(T(0)), sums[0]);
      ((sums[0] + sums[1]) + (sums[2] + sums[3])).store_aligned(zeros + g * width);
    }
    return std::all_of(zeros, zeros + count_, [](T x) { return x == T(0); });
  }

  /// o / l, or 0 where nothing was visible, to `count` rows of `out`.
  template <class S>
  HEED_NOINLINE void store_output(S* out, index_t stride) noexcept {
    store_output(strided_rows<S>{out, stride});
  }
  /// The same to rows[i], wherever each is.
  template <class Rows>
  HEED_NOINLINE void store_output(const Rows& rows) noexcept {
    begin_output(0, groups_);
    for (int i = 0; i < count_; ++i) prefetch_row<1>(rows[i], value_features_);
    for (int g = 0; g < groups_; ++g) {
      const P l = P::load_aligned(sum_ + g * width);
      const P inverse = select(l == P(T(0)), P(T(0)), P(T(1)) / l);
      store_transposed<pitch>(output_ + g * width, value_features_, inverse, rows.from(g * width),
                              std::min(width, count_ - g * width));
    }
  }

  /// m + log l (natural), or -inf where nothing was visible.
  void store_lse(T* lse, index_t stride) const noexcept {
    for (int i = 0; i < count_; ++i) lse[i * stride] = lse_of(i);
  }

  /// blended [feature][lane] += factor * o / l.
  void add_blended(T* blended, T factor) noexcept {
    begin_output(0, groups_);
    for (int g = 0; g < groups_; ++g) {
      const P l = P::load_aligned(sum_ + g * width);
      const P weight = select(l == P(T(0)), P(T(0)), P(factor) / l);
      for (index_t e = 0; e < value_features_; ++e) {
        T* const to = blended + e * pitch + g * width;
        fma(P::load_aligned(output_ + e * pitch + g * width), weight, P::load_aligned(to)).store_aligned(to);
      }
    }
  }

  /// Makes `blended` (as of add_blended) the output.
  void set_output(const T* blended) noexcept {
    for (index_t e = 0; e < value_features_; ++e)
      std::copy_n(blended + e * pitch, groups_ * width, output_ + e * pitch);
    begun_ = all_vectors(0, groups_);
    std::fill_n(sum_, pitch, T(1));
  }

 private:
  /// Looked at first, scores may exceed the reference by `slack2` before it moves. Not looked at, weights may add up to
  /// `weight_bound` before it must: far from overflow, and as precise as others.
  static constexpr T slack2 = T(11.5);
  static constexpr T weight_bound = T(1 << 30) * T(1 << 30);

  /// A bit for each.
  static constexpr unsigned all_vectors(int low, int high) noexcept { return (1u << high) - (1u << low); }

  /// Zeros for vectors that have met no value.
  void begin_output(int low, int high) noexcept {
    for (int g = low; g < high; ++g) {
      if ((begun_ >> g & 1u) != 0) continue;
      for (index_t e = 0; e < value_features_; ++e) P(T(0)).store_aligned(output_ + e * pitch + g * width);
    }
    begun_ |= all_vectors(low, high);
  }

  T lse_of(int lane) const noexcept {
    if (sum_[lane] == T(0)) return -std::numeric_limits<T>::infinity();
    return reference_[lane] * ln_2<T> + std::log(sum_[lane]);
  }

  /// Makes the scores of a run weights relative to the reference, which moves if it must. Returns what
  /// finish_scores does.
  template <class Source, class Mask, class... Mods>
  HEED_NOINLINE bool weigh(const key_block<Source, T, A>& block, const tile_run& run, tile_place place, const T* bias,
                           T log_weight2, prefetcher& ahead, const Mask& mask, const score_chain<Mods...>& chain) {
    alignas(64) T start[pitch];
    alignas(64) T total[pitch];
    const unsigned vectors = all_vectors(run.part.low, run.part.high);
    bool excluded = false;
    for (int done = 0; done < run.part.count;) {
      tile_part rest{run.part.first + done, run.part.count - done, run.part.low, run.part.high};
      const bool settled = (settled_ & vectors) == vectors;
      if (settled && trusted_ && care_ != tile_care::range) {
        for (int g = rest.low; g < rest.high; ++g) {
          (P(log_weight2) - P::load_aligned(reference_ + g * width)).store_aligned(start + g * width);
          P(T(0)).store_aligned(total + g * width);
        }
        const bool some = score(block, {rest, run.masked}, place, bias, start, true, total, ahead, mask, chain);
        // Lanes without a query may hold anything.
        std::fill(total + std::min(count_, rest.high * width), total + rest.high * width, T(0));
        // A sum within the bound proves every weight within it. NaN fails the comparison and takes the long way.
        bool bounded = true;
        for (int g = rest.low; g < rest.high; ++g)
          bounded = bounded && all(P::load_aligned(total + g * width) <= P(weight_bound));
        if (bounded) {
          for (int g = rest.low; g < rest.high; ++g)
            (P::load_aligned(sum_ + g * width) + P::load_aligned(total + g * width)).store_aligned(sum_ + g * width);
          return excluded || some;
        }
      } else if (!settled && chain.plain() && bias == nullptr) {
        // A few keys the long way give every query a reference, as a rule. Not so where scores depend on positions.
        rest.count = std::min(rest.count, shape::mask_keys);
      }
      std::fill_n(start + rest.low * width, (rest.high - rest.low) * width, log_weight2);
      std::fill_n(total + rest.low * width, (rest.high - rest.low) * width, -std::numeric_limits<T>::infinity());
      excluded = score(block, {rest, run.masked}, place, bias, start, false, total, ahead, mask, chain) || excluded;
      std::fill(total + std::min(count_, rest.high * width), total + rest.high * width,
                -std::numeric_limits<T>::infinity());
      const bool raised = raise_reference(total, {run.part.first, done, rest.low, rest.high});
      // Where scores rise from block to block, look at the maximum first until one does not.
      trusted_ = !(settled && raised);
      exponentiate(rest);
      done += rest.count;
    }
    return excluded;
  }

  template <class Source, class Mask, class... Mods>
  HEED_INLINE bool score(const key_block<Source, T, A>& block, const tile_run& run, tile_place place, const T* bias,
                         const T* start, bool weigh, T* total, prefetcher& ahead, const Mask& mask,
                         const score_chain<Mods...>& chain) {
    return score_keys(scored_tile<T>{queries_, features_, scores_}, block, run, place, bias, start, weigh,
                      care_ != tile_care::none, total, ahead, mask, chain);
  }

  /// Moves the reference up to `top` where that exceeds it by more than the slack, and rescales what is relative to it:
  /// sums, outputs, and the weights of `pending`, which are not in the outputs yet. Returns whether it moved.
  HEED_NOINLINE bool raise_reference(const T* top_of, tile_part pending) noexcept {
    bool raises = false;
    const P nothing(-std::numeric_limits<T>::infinity());
    for (int g = pending.low; g < pending.high; ++g) {
      const P m = P::load_aligned(reference_ + g * width), top = P::load_aligned(top_of + g * width);
      const auto late = (top > m + P(care_ == tile_care::range ? T(0) : slack2)) | ((m == nothing) & (top > nothing));
      if (!any(late)) continue;
      raises = true;
      const P raised = select(late, top, m);
      // Lanes that stay at -inf subtract 0 instead: their sums are 0 and stay so.
      const P base = select(raised == nothing, P(T(0)), raised);
      const P factor = exp2_bounded<precision::weight>(min(m - base, P(T(0))));
      raised.store_aligned(reference_ + g * width);
      if (!any(raised == nothing)) settled_ |= 1u << g;
      if (all(m == nothing)) continue;  // Nothing to rescale yet.
      (P::load_aligned(sum_ + g * width) * factor).store_aligned(sum_ + g * width);
      if ((begun_ >> g & 1u) != 0) scale_rows(output_ + g * width, value_features_, factor);
      scale_rows(scores_ + pending.first * pitch + g * width, pending.count, factor);
    }
    return raises;
  }

  static void scale_rows(T* row, index_t count, P factor) noexcept {
    for (const T* const end = row + count * pitch; row != end; row += pitch)
      (P::load_aligned(row) * factor).store_aligned(row);
  }

  /// scores = 2^(scores - m), summed into l.
  HEED_NOINLINE void exponentiate(tile_part part) noexcept {
    for (int g = part.low; g < part.high; ++g) {
      const P m = P::load_aligned(reference_ + g * width);
      const P base = select(m == P(-std::numeric_limits<T>::infinity()), P(T(0)), m);
      P total(T(0));
      T* scores = scores_ + part.first * pitch + g * width;
      for (int j = 0; j < part.count; ++j, scores += pitch) {
        const P p = exp2_bounded<precision::weight>(P::load_aligned(scores) - base);
        total += p;
        p.store_aligned(scores);
      }
      (P::load_aligned(sum_ + g * width) + total).store_aligned(sum_ + g * width);
    }
  }

  /// Weights as they meet values.
  template <class Factor>
  HEED_NOINLINE void multiply_weights(tile_part part, tile_place place, const Factor& factor) const noexcept {
    for (int g = part.low; g < part.high; ++g) {
      const auto of_key = factor.template of<T, A>(queries_at<T, A>(place, g));
      T* weights = scores_ + part.first * pitch + g * width;
      for (int j = part.first; j < part.first + part.count; ++j, weights += pitch)
        (P::load_aligned(weights) * of_key(place.key + j)).store_aligned(weights);
    }
  }

  /// output[e][lane] += sum_j v_j[e] weights[j][lane]; `careful`: some weights are those of excluded pairs.
  template <class Source>
  HEED_NOINLINE void add_values(const key_block<Source, T, A>& block, tile_part part, bool careful) noexcept {
    block.for_values(part.first, part.count, [&](auto rows, int count, int row) {
      const bool one_by_one = careful && !all_finite<T, A>(rows, count, value_features_);
      for_blocks<T, A>(part.low, part.high, [&](auto vectors, int v) {
        constexpr int n = decltype(vectors)::value;
        const T* const weights = scores_ + row * pitch + v * width;
        T* const output = output_ + v * width;
        // The first values of a register block need no zeros in memory to go on from.
        const bool fresh = (begun_ & all_vectors(v, v + n)) == 0 && !one_by_one;
        if (!fresh) begin_output(v, v + n);
        if (one_by_one)
          value_panel_carefully<T, A>(rows, count, weights, n, value_features_, output);
        else
          value_panel<n, T, A>(rows, count, weights, value_features_,
                               fresh ? no_sums<T, A>() : sums_before<T>{output, pitch}, output);
        begun_ |= all_vectors(v, v + n);
      });
    });
  }

  index_t features_ = 0, value_features_ = 0;
  T* queries_ = nullptr;    // [D][lane], times scale
  T* output_ = nullptr;     // [E][lane]
  T* reference_ = nullptr;  // [lane]
  T* sum_ = nullptr;        // [lane]
  T* scores_ = nullptr;     // [key][lane]: logits, then weights
  int count_ = 0;           // query rows
  int groups_ = 0;          // vectors that hold them
  unsigned settled_ = 0;    // bit g: every lane of vector g has a finite reference
  unsigned begun_ = 0;      // bit g: the output of vector g is in memory; else it is 0
  tile_care care_ = tile_care::none;
  bool trusted_ = true;  // the reference is expected to hold for the next keys
};

/// Values of excluded pairs must not reach the result, not even times zero. Products with weights of zero are the fast way
/// to leave them out, and right unless one of them is infinite or NaN; the state shows that. Of a tile that was cared for
/// no further: attend(care) with more care, until that is enough.
template <class Tile, class Attend>
void attend_with_more_care(Tile& tile, const Attend& attend) {
  for (const tile_care care : {tile_care::values, tile_care::range}) {
    if (tile.finite()) return;
    attend(care);
  }
}

}  // namespace detail
HEED_ARCH_END
