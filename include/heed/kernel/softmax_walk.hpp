/// The walk of the tile engine: which key tiles a tile of queries visits, and in what order.
#pragma once

#include <heed/kernel/softmax_tile.hpp>

#include <optional>

HEED_ARCH_BEGIN
namespace detail {

/// Positions go to mods as int; entry points have checked that they fit.
HEED_INLINE constexpr int saturate(index_t x) noexcept {
  return static_cast<int>(x < INT_MIN ? INT_MIN : x > INT_MAX ? INT_MAX : x);
}

/// The mask of a call: its window (-1: unbounded) and the caller's mask, both of which must agree to a pair.
template <class Mask>
struct windowed {
  index_t left, right;
  const Mask& mask;

  tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const {
    // Every difference key - query between these two occurs.
    const index_t least = index_t(k0) - (q1 - 1), most = index_t(k1) - 1 - q0;
    if ((left >= 0 && most < -left) || (right >= 0 && least > right)) return tile_class::empty;
    const tile_class inner = detail::classify(mask, b, h, q0, q1, k0, k1);
    const bool whole = (left < 0 || least >= -left) && (right < 0 || most <= right);
    return whole || inner == tile_class::empty ? inner : tile_class::partial;
  }

  key_range keys(int b, int h, int q0, int q1) const {
    key_range range = visible_keys(mask, b, h, q0, q1);
    if (left >= 0) range.begin = std::max(range.begin, saturate(index_t(q0) - left));
    if (right >= 0) range.end = std::min(range.end, saturate(index_t(q1) + right));
    return range;
  }
};

template <class T, class A, class Mask>
HEED_INLINE mask_pack<T, A> visible(const windowed<Mask>& mask, const basic_position<index_pack<T, A>>& at) {
  mask_pack<T, A> seen = visible<T, A>(mask.mask, at);
  if (mask.left >= 0) seen = seen & (at.q <= index_pack<T, A>(saturate(at.kv + mask.left)));
  if (mask.right >= 0) seen = seen & (at.q >= index_pack<T, A>(saturate(at.kv - mask.right)));
  return seen;
}

/// What is larger does not stay in a second-level cache beside the tiles.
inline constexpr index_t near_bytes = 1 << 20;

/// Additive bias of one (batch entry, head): element (i, j) is data[i * query_stride + j * key_stride].
template <class S>
struct bias_rows {
  const S* data = nullptr;
  index_t query_stride = 0, key_stride = 0;
  /// Too large for the second-level cache, and read row by row.
  bool far = false;
};

/// to[key][lane] = bias(first_query + lane, first_key + key).
template <class T, class A, class S>
void load_bias(const bias_rows<S>& bias, index_t first_query, int queries, index_t first_key, int keys,
               T* to) noexcept {
  using shape = tile_shape<T, A>;
  using P = pack<T, A>;
  const S* const corner = bias.data + first_query * bias.query_stride + first_key * bias.key_stride;
  for (int g = 0; g * shape::width < queries; ++g) {
    const int count = std::min(shape::width, queries - g * shape::width);
    const S* const rows = corner + g * shape::width * bias.query_stride;
    T* const column = to + g * shape::width;
    if (bias.query_stride == 0) {
      for (int j = 0; j < keys; ++j)
        P(static_cast<T>(rows[j * bias.key_stride])).store_aligned(column + j * shape::queries);
    } else if (bias.key_stride == 1) {
      load_transposed<shape::queries>(rows, bias.query_stride, count, keys, P(T(1)), column);
    } else {
      // One value a query, for all keys.
      load_transposed<shape::queries>(rows, bias.query_stride, count, 1, P(T(1)), column);
      for (int j = 1; j < keys; ++j) P::load_aligned(column).store_aligned(column + j * shape::queries);
    }
  }
}

/// Adds part `part` of `parts` of keys [first, first + count) and their values.
template <class Source, class T, class A>
void call_rows(prefetcher& ahead, const Source& source, index_t first, index_t count, int part, int parts,
               const tile_buffers<T, A>& buffers) noexcept {
  const index_t begin = first + count * part / parts, end = first + count * (part + 1) / parts;
  const auto k = source.keys(begin, end - begin);
  const auto v = source.values(begin, end - begin);
  ahead.add(k.data, k.stride, k.count, buffers.features);
  ahead.add(v.data, v.stride, v.count, buffers.value_features);
}

/// Lets loaded tiles of successive queries attend to all keys of a source that the mask shows them. `place` and
/// `first_query` are those of the first.
///
/// From the keys at position `nearest` down to the first, then those after it: most scores fall with distance, and a
/// reference that the nearest keys set need not move. The order of a tile depends on shapes, positions and masks alone.
template <class T, class A, class Source, class S, class Mask, class... Mods>
HEED_NOINLINE void attend(softmax_tile<T, A>* tiles, int tile_count, const tile_buffers<T, A>& buffers,
                          const Source& source, tile_place place, index_t first_query, index_t nearest, int kv_offset,
                          const bias_rows<S>& bias, T log_weight2, const windowed<Mask>& mask,
                          const score_chain<Mods...>& chain) {
  constexpr index_t keys = tile_shape<T, A>::keys;
  constexpr int size = tile_shape<T, A>::queries;
  const int queries = (tile_count - 1) * size + tiles[tile_count - 1].count();
  const key_range range = mask.keys(place.b, place.h, place.query, place.query + queries);
  const index_t begin = std::max<index_t>(0, index_t(range.begin) - kv_offset) / keys;
  const index_t end = (std::min<index_t>(source.count, index_t(range.end) - kv_offset) + keys - 1) / keys;
  if (begin >= end) return;
  const index_t start = std::clamp((nearest - kv_offset) / keys, begin, end - 1);
  const auto after = [&](index_t block) {
    if (block > start) return block + 1;
    return block > begin ? block - 1 : start + 1;
  };
  // What fits the second-level cache is called there by its first use.
  const bool far = source.count * (buffers.features + buffers.value_features) * index_t(sizeof(S)) > near_bytes;
  for (index_t at = start; at < end; at = after(at)) {
    const index_t first = at * keys;
    const int count = static_cast<int>(std::min(keys, source.count - first));
    const index_t next = after(at) * keys;
    tile_place here = place;
    here.key = static_cast<int>(first) + kv_offset;
    std::optional<key_block<Source, T, A>> block;
    for (int i = 0; i < tile_count; ++i, here.query += size) {
      softmax_tile<T, A>& tile = tiles[i];
      const tile_class seen =
          mask.classify(here.b, here.h, here.query, here.query + tile.count(), here.key, here.key + count);
      if (seen == tile_class::empty) continue;
      if (!block) block.emplace(source, first, count, buffers);
      prefetcher ahead;
      // Each tile calls its share of the next block.
      if (far && next < end * keys)
        call_rows(ahead, source, next, std::min(keys, source.count - next), i, tile_count, buffers);
      if (bias.data != nullptr) {
        load_bias<T, A>(bias, first_query + i * size, tile.count(), first, count, buffers.bias);
        // The next tile's rows, or the first tile's for the next block.
        const int other = i + 1 < tile_count ? i + 1 : 0;
        const index_t key = other != 0 ? first : next;
        if (bias.far && key < end * keys)
          ahead.add(bias.data + (first_query + other * size) * bias.query_stride + key, bias.query_stride,
                    tiles[other].count(), std::min(keys, source.count - key));
      }
      ahead.spread(count * tile.vectors());
      tile.absorb(*block, here, buffers.bias, log_weight2, seen == tile_class::partial, ahead, mask, chain);
      ahead.finish();
    }
  }
}

}  // namespace detail
HEED_ARCH_END
