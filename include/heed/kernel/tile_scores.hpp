/// The scores of a tile of queries and a block of keys.
#pragma once

#include <heed/kernel/key_block.hpp>
#include <heed/kernel/mask_runs.hpp>
#include <heed/kernel/prefetch.hpp>
#include <heed/kernel/score.hpp>
#include <heed/kernel/tile_panels.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Queries of a tile, and where their scores go.
template <class T>
struct scored_tile {
  const T* queries;  // [D][lane], times scale
  index_t features;
  T* scores;  // [key][lane]
};

/// scores[j][lane] = start[lane] + what the chain compares keys and queries by: their products, unless it has a pair
/// score.
template <int Vectors, class T, class A, class Rows, class... Mods>
HEED_INLINE void compare_panel(Rows keys, int count, const T* queries, index_t features, const T* start, T* scores,
                               const score_chain<Mods...>& chain) noexcept {
  if constexpr (score_chain<Mods...>::has_pair_score)
    chain.pair_score().template compare<Vectors, T, A>(keys, count, queries, features, start, scores);
  else
    key_panel<Vectors, T, A>(keys, count, queries, features, {start, nullptr}, scores);
}

/// Products of plain scores, which begin at `start` and the bias, if there is one, for as many keys as panels take at a
/// time. Returns whether that is all there is to do, unless `more` is: they are weights already, or logits whose largest
/// is known.
template <int Vectors, class T, class A, class Rows>
HEED_INLINE bool plain_panel(Rows keys, int count, const T* queries, index_t features, const T* start, const T* bias,
                             bool weigh, bool more, T* total, T* scores) noexcept {
  const product_start<T, A> from{start, bias};
  if (!weigh && !more) {
    logit_panel<Vectors, T, A>(keys, count, queries, features, from, total, scores);
    return true;
  }
  if constexpr (Vectors == tile_shape<T, A>::vectors) {
    if (weigh && !more) {
      weight_panel<Vectors, T, A>(keys, count, queries, features, from, total, scores);
      return true;
    }
  }
  key_panel<Vectors, T, A>(keys, count, queries, features, from, scores);
  return false;
}

/// Products of a run of keys and what finish_scores makes of them, a few keys at a time while they are in the
/// first-level cache. Returns what finish_scores does.
template <class T, class A, class Source, class Mask, class... Mods>
HEED_NOINLINE bool score_keys(const scored_tile<T>& tile, const key_block<Source, T, A>& block, const tile_run& run,
                              tile_place place, const T* bias, const T* start, bool weigh, bool careful, T* total,
                              prefetcher& ahead, const Mask& mask, const score_chain<Mods...>& chain) {
  using shape = tile_shape<T, A>;
  constexpr int width = shape::width, pitch = shape::queries;
  alignas(64) static constexpr T zeros[pitch] = {};
  const bool plain = chain.plain();
  const tile_part& part = run.part;
  // Shorter panels where rows are called ahead meanwhile: bursts of calls hold up other reads.
  const int blocks = ahead.idle() ? 4 : 2;
  bool excluded = false;
  block.for_keys(part.first, part.count, [&](auto rows, int count, int row) {
    for_blocks<T, A>(part.low, part.high, [&](auto vectors, int v) {
      constexpr int n = decltype(vectors)::value;
      const T* const queries = tile.queries + v * width;
      const bool fused = n == shape::vectors && weigh && plain && !careful && run.masked == 0;
      const int most = n == 1 ? 2 * shape::mask_keys : (fused ? 8 : blocks) * shape::rows(n);
      for (int j = 0; j < count;) {
        const int at = row + j;
        const int some = std::min(count - j, run.uniform() ? most : shape::mask_keys - at % shape::mask_keys);
        const bool hides = (run.masked >> at / shape::mask_keys & 1u) != 0;
        const auto keys = rows.from(j);
        T* const scores = tile.scores + at * pitch + v * width;
        const tile_part here{at, some, v, v + n};
        if (plain) {
          if constexpr (sizeof...(Mods) == 0) {
            const bool done = plain_panel<n, T, A>(keys, some, queries, tile.features, start + v * width,
                                                   bias == nullptr ? nullptr : bias + at * pitch + v * width, weigh,
                                                   hides || careful, total + v * width, scores);
            if (!done)
              excluded = finish_scores<T, A>(tile.scores, careful ? bias : nullptr, total, start, here, place, hides,
                                             weigh, careful, true, mask, chain) ||
                         excluded;
          }
        } else {
          compare_panel<n, T, A>(keys, some, queries, tile.features, zeros + v * width, scores, chain);
          excluded = finish_scores<T, A>(tile.scores, bias, total, start, here, place, hides, weigh, careful, false,
                                         mask, chain) ||
                     excluded;
        }
        ahead.issue(some * n);
        j += some;
      }
    });
  });
  return excluded;
}

}  // namespace detail
HEED_ARCH_END
