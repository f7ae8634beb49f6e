/// One tile of queries whose softmax is known: weights are computed anew from the lse that forward left.
///
/// Transposed like softmax_tile.
#pragma once

#include <heed/kernel/tile_io.hpp>
#include <heed/kernel/tile_scores.hpp>

#include <algorithm>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// What a tile makes of its scores z: weights P = exp(z - lse), or their logarithms in base 2.
enum class weight_form { weights, logarithms };

template <class T, class A>
class weight_tile {
 public:
  using P = pack<T, A>;
  using shape = tile_shape<T, A>;
  static constexpr int width = shape::width;
  static constexpr int pitch = shape::queries;

  weight_tile(scratch_cursor& memory, const tile_buffers<T, A>& shared) noexcept
      : buffers_(shared), queries_(memory.take<T>(shared.features * pitch)), start_(memory.take<T>(pitch)) {}

  int count() const noexcept { return count_; }

  /// Loads `count` query rows, times `factor`. Lanes without a query hold anything from here on.
  template <class S>
  HEED_NOINLINE void load(const S* rows, index_t stride, const T* lse, index_t lse_stride, int count,
                          T factor) noexcept {
    count_ = count;
    load_lanes<pitch>(rows, stride, count, buffers_.features, P(factor), queries_);
    std::fill_n(start_, pitch, T(0));
    for (int i = 0; i < count; ++i) start_[i] = -lse[i * lse_stride] * log2_e<T>;
  }

  /// Calls use(part, top) for the parts of a block that the mask may show, while their weights are in the buffers'
  /// scores; those of excluded pairs are 0, their logarithms -inf. `top` [lane]: the largest logarithm of the part.
  template <class Source, class Mask, class... Mods, class Use>
  HEED_NOINLINE void weigh(const key_block<Source, T, A>& block, tile_place place, const T* bias, bool partial,
                           weight_form form, const Mask& mask, const score_chain<Mods...>& chain, const Use& use) {
    alignas(64) T total[pitch];
    tile_run runs[most_runs<T, A>];
    const int used = split_by_mask<T, A>(mask, place, count_, block.count(), partial, runs);
    const bool weigh = form == weight_form::weights;
    prefetcher nothing;
    for (int i = 0; i < used; ++i) {
      std::fill_n(total, pitch, weigh ? T(0) : -std::numeric_limits<T>::infinity());
      score_keys(scored_tile<T>{queries_, buffers_.features, buffers_.scores}, block, runs[i], place, bias, start_,
                 weigh, bias != nullptr, total, nothing, mask, chain);
      use(runs[i].part, static_cast<const T*>(total));
    }
  }

 private:
  const tile_buffers<T, A>& buffers_;
  T* queries_;  // [D][lane], times scale
  T* start_;    // [lane]: -lse in base 2
  int count_ = 0;
};

}  // namespace detail
HEED_ARCH_END
