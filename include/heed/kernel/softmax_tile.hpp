/// One tile of queries and its online softmax: products, exponentials, sums and the state (o, m, l) they leave behind.
///
/// Everything is transposed: a lane of a vector is a query, so row maxima, sums and rescaling are vertical operations, masks
/// act on whole vectors, and keys and values are read where they are, one scalar at a time, at any stride and any head size.
#pragma once

#include <heed/kernel/outer_product.hpp>
#include <heed/kernel/score.hpp>
#include <heed/kernel/source.hpp>
#include <heed/kernel/tile_io.hpp>

#include <algorithm>
#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// Additive bias of a tile, [key][lane] as its scores, or null; `excludes`: some element is -inf.
template <class T>
struct tile_bias {
  const T* rows = nullptr;
  bool excludes = false;
};

/// The state of `queries` query rows against the keys absorbed so far, in base 2:
///   reference m [lane]         an upper bound, up to a slack, of the logits seen; -inf before the first visible key
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

  /// Takes the tile's memory from a cursor. `convert`: keys and values need conversion to T first; `bias`: there is a bias.
  softmax_tile(scratch_cursor& memory, index_t features, index_t value_features, bool convert, bool bias) noexcept
      : features_(features),
        value_features_(value_features),
        queries_(memory.take<T>(features * pitch)),
        scores_(memory.take<T>(shape::keys * pitch)),
        output_(memory.take<T>(value_features * pitch)),
        reference_(memory.take<T>(pitch)),
        sum_(memory.take<T>(pitch)),
        top_(memory.take<T>(pitch)),
        bias_(bias ? memory.take<T>(shape::keys * pitch) : nullptr),
        copy_(convert ? memory.take<T>(shape::keys * conflict_free_pitch<T>(std::max(features, value_features))) : nullptr) {}

  int groups() const noexcept { return groups_; }
  T* bias_tile() noexcept { return bias_; }

  /// Loads `count` query rows, times `factor`, and empties the state.
  template <class S>
  void load_queries(const S* rows, index_t stride, int count, T factor) noexcept {
    count_ = count;
    groups_ = (count + width - 1) / width;
    for (int g = 0; g < groups_; ++g)
      load_transposed<pitch>(rows + g * width * stride, stride, std::min(width, count - g * width), features_, P(factor),
                      queries_ + g * width);
    clear();
  }

  /// Forgets the keys, keeps the queries.
  void clear() noexcept {
    for (index_t i = 0; i < value_features_; ++i) std::fill_n(output_ + i * pitch, groups_ * width, T(0));
    std::fill_n(sum_, pitch, T(0));
    // Lanes without a query hold zeros: a finite reference keeps them from asking for one.
    std::fill_n(reference_, pitch, T(0));
    std::fill_n(reference_, count_, -std::numeric_limits<T>::infinity());
    settled_ = false;
  }

  /// Absorbs keys [first, first + count), all visible to all queries, count <= shape::keys.
  /// `log_weight2` is added to every base-2 logit.
  template <class Source, class Mask, class... Mods>
  void absorb_full(const Source& source, index_t first, int count, tile_place place, tile_bias<T> bias, T log_weight2,
                   const Mask& mask, const score_chain<Mods...>& chain) noexcept(sizeof...(Mods) == 0) {
    if constexpr (shape::fuse_exp) {
      if (settled_ && groups_ == shape::vectors && chain.plain() && !bias.excludes &&
          weigh_in_registers(source, first, count, bias.rows, log_weight2)) {
        add_values(source, first, {0, count, 0, groups_}, false);
        return;
      }
    }
    const tile_part all{0, count, 0, groups_};
    multiply_keys(source, first, all);
    start_maximum();
    const bool excluded = finish_scores<T, A>(scores_, bias.rows, top_, all, place, 0, log_weight2, mask, chain);
    raise_reference(0, groups_);
    exponentiate(all);
    add_values(source, first, all, excluded);
  }

  /// Absorbs keys [first, first + count) that the mask may cut anywhere.
  template <class Source, class Mask, class... Mods>
  void absorb_masked(const Source& source, index_t first, int count, tile_place place, tile_bias<T> bias, T log_weight2,
                     const Mask& mask, const score_chain<Mods...>& chain) {
    tile_part parts[shape::keys / shape::mask_keys];
    int used = 0;
    int low = groups_, high = 0;
    start_maximum();
    for (int j = 0; j < count; j += shape::mask_keys) {
      tile_part part{j, std::min(shape::mask_keys, count - j), groups_, 0};
      unsigned masked = 0;
      for (int g = 0; g < groups_; ++g) {
        const int q0 = place.query + g * width;
        const tile_class seen = classify(mask, place.b, place.h, q0, q0 + std::min(width, count_ - g * width),
                                         place.key + j, place.key + j + part.count);
        if (seen == tile_class::empty) {
          masked |= 1u << g;
          continue;
        }
        if (seen == tile_class::partial) masked |= 1u << g;
        part.low = std::min(part.low, g);
        part.high = g + 1;
      }
      if (part.low >= part.high) continue;
      multiply_keys(source, first, part);
      finish_scores<T, A>(scores_, bias.rows, top_, part, place, masked, log_weight2, mask, chain);
      low = std::min(low, part.low);
      high = std::max(high, part.high);
      // Neighbors with the same vectors become one part: fewer, longer value products.
      if (used > 0 && parts[used - 1].low == part.low && parts[used - 1].high == part.high &&
          parts[used - 1].first + parts[used - 1].count == part.first)
        parts[used - 1].count += part.count;
      else
        parts[used++] = part;
    }
    if (used == 0) return;
    raise_reference(low, high);
    for (int i = 0; i < used; ++i) {
      exponentiate(parts[i]);
      add_values(source, first, parts[i], true);
    }
  }

  /// Merges one more logit per query, without a value: an attention sink. Natural log.
  void absorb_sink(T logit) noexcept {
    const T logit2 = logit * log2_e<T>;
    if (logit2 == -std::numeric_limits<T>::infinity()) return;
    for (int g = 0; g < groups_; ++g) P(logit2).store_aligned(top_ + g * width);
    raise_reference(0, groups_);
    for (int g = 0; g < groups_; ++g) {
      const P weight = exp2_bounded<precision::weight>(P(logit2) - P::load_aligned(reference_ + g * width));
      (P::load_aligned(sum_ + g * width) + weight).store_aligned(sum_ + g * width);
    }
  }

  /// o / l, or 0 where nothing was visible, to `count` rows of `out`.
  template <class S>
  void store_output(S* out, index_t stride) const noexcept {
    for (int g = 0; g < groups_; ++g) {
      const P l = P::load_aligned(sum_ + g * width);
      const P inverse = select(l == P(T(0)), P(T(0)), P(T(1)) / l);
      store_transposed<pitch>(output_ + g * width, value_features_, inverse, out + g * width * stride, stride,
                       std::min(width, count_ - g * width));
    }
  }

  /// m + log l (natural), or -inf where nothing was visible.
  void store_lse(T* lse, index_t stride) const noexcept {
    for (int i = 0; i < count_; ++i) lse[i * stride] = lse_of(i);
  }

  /// blended [feature][lane] += factor * o / l.
  void add_blended(T* blended, T factor) const noexcept {
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
    std::fill_n(sum_, pitch, T(1));
  }

 private:
  /// Scores of later keys may exceed the reference by this much before it moves. Weights then stay below 2^11.5 = e^8.
  static constexpr T slack2 = T(11.5);

  T lse_of(int lane) const noexcept {
    if (sum_[lane] == T(0)) return -std::numeric_limits<T>::infinity();
    return reference_[lane] * ln_2<T> + std::log(sum_[lane]);
  }

  /// Calls f(run, row) with runs of T for rows [first, first + count) of the source, converted if they are stored otherwise.
  /// `row` counts from the start of the part.
  template <class Get, class F>
  static void for_runs(Get get, int count, index_t features, T* copy, F f) {
    for (int row = 0; row < count;) {
      const auto run = get(row, count - row);
      if constexpr (std::is_same_v<decltype(run.data), const T* const> || std::is_same_v<decltype(run.data), const T*>) {
        f(run.data, run.stride, static_cast<int>(run.count), row);
      } else {
        for (index_t i = 0; i < run.count; ++i)
          convert_row<T, A>(run.data + i * run.stride, copy + i * conflict_free_pitch<T>(features), features);
        f(static_cast<const T*>(copy), conflict_free_pitch<T>(features), static_cast<int>(run.count), row);
      }
      row += static_cast<int>(run.count);
    }
  }

  /// Splits vectors [low, high) into register blocks and calls f(integral_constant<vectors>, first vector).
  template <class F>
  HEED_INLINE static void for_blocks(int low, int high, F f) {
    while (low < high) {
      if (high - low >= shape::vectors) {
        f(std::integral_constant<int, shape::vectors>{}, low);
        low += shape::vectors;
        continue;
      }
      if constexpr (shape::vectors > 3) {
        if (high - low >= 2) {
          f(std::integral_constant<int, 2>{}, low);
          low += 2;
          continue;
        }
      }
      f(std::integral_constant<int, 1>{}, low);
      low += 1;
    }
  }

  /// Splits `rows` into register blocks and calls f(integral_constant<rows>, first row). Few sizes: each is compiled.
  template <int Vectors, class F>
  HEED_INLINE static void for_rows(index_t rows, F f) {
    constexpr int most = shape::rows(Vectors), some = Vectors == 1 ? 4 : 2;
    index_t r = 0;
    for (; r + most <= rows; r += most) f(std::integral_constant<int, most>{}, r);
    for (; r + some <= rows; r += some) f(std::integral_constant<int, some>{}, r);
    for (; r < rows; ++r) f(std::integral_constant<int, 1>{}, r);
  }

  /// scores[j][lane] = k_j . q_lane for one part.
  template <class Source>
  void multiply_keys(const Source& source, index_t first, tile_part part) noexcept {
    for_runs([&](index_t row, index_t most) { return source.keys(first + part.first + row, most); }, part.count, features_,
             copy_, [&](const T* keys, index_t stride, int count, int row) {
               for_blocks(part.low, part.high, [&](auto vectors, int v) {
                 key_panel<decltype(vectors)::value>(keys, stride, count, queries_ + v * width,
                                                     scores_ + (part.first + row) * pitch + v * width);
               });
             });
  }

  template <int Vectors>
  HEED_NOINLINE void key_panel(const T* keys, index_t stride, int count, const T* queries, T* scores) const noexcept {
    for_rows<Vectors>(count, [&](auto rows, index_t r) {
      outer_product<decltype(rows)::value, Vectors, pitch, T, A>(
          keys + r * stride, stride, unit_step{}, queries, features_, [](int, int) { return P(T(0)); },
          [&](int i, int v, P s) { s.store_aligned(scores + (r + i) * pitch + v * width); });
    });
  }

  /// scores[j][lane] = 2^(k_j . q_lane - m), summed into l: exponentials taken while the products are in registers, against
  /// the reference as it stands. False if some sum shows that it no longer bounds the logits; the state is then unchanged.
  template <class Source>
  bool weigh_in_registers(const Source& source, index_t first, int count, const T* bias, T log_weight2) noexcept {
    using stored = typename Source::storage_type;
    const bool far = source.count * (features_ + value_features_) * index_t(sizeof(stored)) > near_bytes;
    alignas(64) T start[pitch];
    alignas(64) T added[pitch];
    for (int g = 0; g < groups_; ++g) {
      (P(log_weight2) - P::load_aligned(reference_ + g * width)).store_aligned(start + g * width);
      P(T(0)).store_aligned(added + g * width);
    }
    for_runs([&](index_t row, index_t most) { return source.keys(first + row, most); }, count, features_, copy_,
             [&](const T* keys, index_t stride, int rows, int row) {
               const auto values = source.values(first + row, rows);
               weight_panel(keys, stride, rows, start, bias == nullptr ? nullptr : bias + row * pitch, added,
                            scores_ + row * pitch, values, far);
             });
    // A sum within the bound proves every weight within it. NaN fails the comparison and takes the long way.
    const P bound(T(2896));
    bool bounded = true;
    for (int g = 0; g < groups_; ++g) bounded = bounded && all(P::load_aligned(added + g * width) <= bound);
    if (!bounded) return false;
    for (int g = 0; g < groups_; ++g)
      (P::load_aligned(sum_ + g * width) + P::load_aligned(added + g * width)).store_aligned(sum_ + g * width);
    return true;
  }

  /// `values`: the rows that are multiplied next. If the source is `far`, that is larger than the second-level cache can hold
  /// beside the tile, they are called there meanwhile; first read in short pieces of distant rows, they would come late.
  template <class S>
  HEED_NOINLINE void weight_panel(const T* keys, index_t stride, int count, const T* start, const T* bias, T* added, T* weights,
                                  const row_run<S>& values, bool far) const noexcept {
    constexpr int vectors = shape::vectors;
    P total[vectors];
    for (int v = 0; v < vectors; ++v) total[v] = P(T(0));
    for_rows<vectors>(count, [&](auto rows, index_t r) {
      if (far) {
        for (index_t i = r; i < std::min<index_t>(r + decltype(rows)::value, values.count); ++i)
          prefetch_row(values.data + i * values.stride, value_features_);
        for (index_t i = r + keys_ahead; i < std::min<index_t>(r + decltype(rows)::value + keys_ahead, count); ++i)
          prefetch_row(keys + i * stride, features_);
      }
      outer_product<decltype(rows)::value, vectors, pitch, T, A>(
          keys + r * stride, stride, unit_step{}, queries_, features_,
          [&](int i, int v) {
            const P first = P::load_aligned(start + v * width);
            return bias == nullptr ? first : first + P::load_aligned(bias + (r + i) * pitch + v * width);
          },
          [&](int i, int v, P z) {
            // A logit far above the reference must show in the sum.
            if constexpr (!exp2_saturates<T, A>) z = min(z, P(T(std::numeric_limits<T>::max_exponent - 2)));
            const P p = exp2_bounded<precision::weight>(z);
            total[v] += p;
            p.store_aligned(weights + (r + i) * pitch + v * width);
          });
    });
    for (int v = 0; v < vectors; ++v) (P::load_aligned(added + v * width) + total[v]).store_aligned(added + v * width);
  }

  static constexpr index_t keys_ahead = 16;
  static constexpr index_t near_bytes = 512 * 1024;

  template <class S>
  HEED_INLINE static void prefetch_row(const S* row, index_t features) noexcept {
    constexpr index_t step = cache_line / index_t(sizeof(S));
    for (index_t i = 0; i < features; i += step) __builtin_prefetch(row + i, 0, 2);
  }

  void start_maximum() noexcept { std::fill_n(top_, pitch, -std::numeric_limits<T>::infinity()); }

  /// Moves the reference of vectors [low, high) up to `top` where that exceeds it by more than the slack, and rescales.
  void raise_reference(int low, int high) noexcept {
    const P nothing(-std::numeric_limits<T>::infinity());
    for (int g = low; g < high; ++g) {
      const P m = P::load_aligned(reference_ + g * width), top = P::load_aligned(top_ + g * width);
      const auto late = (top > m + P(slack2)) | ((m == nothing) & (top > nothing));
      if (!any(late)) continue;
      const P raised = select(late, top, m);
      // Lanes that stay at -inf subtract 0 instead: their sums are 0 and stay so.
      const P base = select(raised == nothing, P(T(0)), raised);
      const P factor = exp2_bounded<precision::weight>(min(m - base, P(T(0))));
      raised.store_aligned(reference_ + g * width);
      (P::load_aligned(sum_ + g * width) * factor).store_aligned(sum_ + g * width);
      for (index_t e = 0; e < value_features_; ++e) {
        T* const o = output_ + e * pitch + g * width;
        (P::load_aligned(o) * factor).store_aligned(o);
      }
    }
    settled_ = std::none_of(reference_, reference_ + count_,
                            [](T m) { return m == -std::numeric_limits<T>::infinity(); });
  }

  /// scores = 2^(scores - m), summed into l.
  void exponentiate(tile_part part) noexcept {
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

  /// output[e][lane] += sum_j v_j[e] weights[j][lane]. `excluded`: some weights are those of excluded pairs, whose values
  /// must not be read into the result, not even times zero.
  template <class Source>
  void add_values(const Source& source, index_t first, tile_part part, bool excluded) noexcept {
    for_runs([&](index_t row, index_t most) { return source.values(first + part.first + row, most); }, part.count,
             value_features_, copy_, [&](const T* values, index_t stride, int count, int row) {
               const bool careful = excluded && !all_finite(values, stride, count);
               for_blocks(part.low, part.high, [&](auto vectors, int v) {
                 const T* const weights = scores_ + (part.first + row) * pitch + v * width;
                 if (careful)
                   add_values_carefully(values, stride, count, weights, decltype(vectors)::value, output_ + v * width);
                 else
                   value_panel<decltype(vectors)::value>(values, stride, count, weights, output_ + v * width);
               });
             });
  }

  template <int Vectors>
  HEED_NOINLINE void value_panel(const T* values, index_t stride, int count, const T* weights, T* output) const noexcept {
    for_rows<Vectors>(value_features_, [&](auto rows, index_t e) {
      outer_product<decltype(rows)::value, Vectors, pitch, T, A>(
          values + e, unit_step{}, stride, weights, count,
          [&](int i, int v) { return P::load_aligned(output + (e + i) * pitch + v * width); },
          [&](int i, int v, P o) { o.store_aligned(output + (e + i) * pitch + v * width); });
    });
  }

  /// The product of add_values, one multiply-add at a time, leaving out pairs of weight 0.
  HEED_NOINLINE void add_values_carefully(const T* values, index_t stride, int count, const T* weights, int vectors,
                                          T* output) const noexcept {
    for (int v = 0; v < vectors; ++v)
      for (int j = 0; j < count; ++j) {
        const P p = P::load_aligned(weights + j * pitch + v * width);
        const auto counts = p != P(T(0));
        for (index_t e = 0; e < value_features_; ++e) {
          T* const o = output + e * pitch + v * width;
          const P before = P::load_aligned(o);
          select(counts, fma(P(values[j * stride + e]), p, before), before).store_aligned(o);
        }
      }
  }

  bool all_finite(const T* rows, index_t stride, int count) const noexcept {
    // x * 0 is 0 for finite x and NaN otherwise.
    P zeros(T(0));
    T tail = T(0);
    for (int j = 0; j < count; ++j) {
      const T* const row = rows + j * stride;
      index_t e = 0;
      for (; e + width <= value_features_; e += width) zeros = fma(P::load(row + e), P(T(0)), zeros);
      for (; e < value_features_; ++e) tail += row[e] * T(0);
    }
    return all(zeros == P(T(0))) && tail == T(0);
  }

  index_t features_, value_features_;
  T* queries_;    // [D][lane], times scale
  T* scores_;     // [key][lane]: products, logits, then weights
  T* output_;     // [E][lane]
  T* reference_;  // [lane]
  T* sum_;        // [lane]
  T* top_;        // [lane]
  T* bias_;       // [key][lane]
  T* copy_;       // [key][conflict_free_pitch]: converted keys, then converted values
  int count_ = 0;   // query rows
  int groups_ = 0;  // vectors that hold them
  bool settled_ = false;  // every lane has a finite reference
};

}  // namespace detail
HEED_ARCH_END
