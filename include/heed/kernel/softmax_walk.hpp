/// The walk of the tile engine: which key tiles a tile of queries visits, and in what order.
#pragma once

#include <heed/kernel/softmax_rows.hpp>
#include <heed/kernel/softmax_tile.hpp>

#include <optional>

HEED_ARCH_BEGIN
namespace detail {

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

/// Lets loaded tiles of successive queries attend to all keys that they meet and that the mask shows them.
///
/// From the keys at position `nearest` down to the first, then those after it: most scores fall with distance, and a
/// reference that the nearest keys set need not move. The order of a tile depends on shapes, positions and masks alone.
template <class T, class A, class Source, class S, class Mask, class... Mods>
HEED_NOINLINE void attend(softmax_tile<T, A>* tiles, int tile_count, const tile_buffers<T, A>& buffers,
                          const meeting<Source, S, A>& m, index_t nearest, const windowed<Mask>& mask,
                          const score_chain<Mods...>& chain) {
  constexpr index_t keys = tile_shape<T, A>::keys;
  constexpr int size = tile_shape<T, A>::queries;
  if (m.begin >= m.end) return;
  const index_t start = std::clamp((nearest - m.kv_offset) / keys, m.begin, m.end - 1);
  const auto after = [&](index_t block) {
    if (block > start) return block + 1;
    return block > m.begin ? block - 1 : start + 1;
  };
  // What fits the second-level cache is called there by its first use.
  const bool far = m.source.count * (buffers.features + buffers.value_features) * index_t(sizeof(S)) > near_bytes;
  for (index_t at = start, next = 0; at < m.end; at = next) {
    next = after(at);
    const index_t first = m.first_key(at);
    const int count = m.keys_of(at);
    std::optional<key_block<Source, T, A>> block;
    for (int i = 0; i < tile_count; ++i) {
      softmax_tile<T, A>& tile = tiles[i];
      const tile_place here = m.place_of(i, at);
      const tile_class seen =
          mask.classify(here.b, here.h, here.query, here.query + tile.count(), here.key, here.key + count);
      if (seen == tile_class::empty) continue;
      if (!block) block.emplace(m.source, first, count, buffers);
      prefetcher ahead;
      // Each tile calls its share of the next block.
      if constexpr (row_source<Source>)
        if (far && next < m.end) call_rows(ahead, m.source, m.first_key(next), m.keys_of(next), i, tile_count, buffers);
      if (m.bias.data != nullptr) {
        load_bias<T, A>(m.bias, m.first_query + i * size, tile.count(), first, count, buffers.bias);
        // The next tile's rows, or the first tile's for the next block.
        const bool last = i + 1 == tile_count;
        const int other = last ? 0 : i + 1;
        const index_t of = last ? next : at;
        if (m.bias.far && of < m.end)
          ahead.add(m.bias.data + (m.first_query + other * size) * m.bias.query_stride + m.first_key(of),
                    m.bias.query_stride, tiles[other].count(), m.keys_of(of));
      }
      ahead.spread(count * tile.vectors());
      tile.absorb(*block, here, buffers.bias, m.log_weight2, seen == tile_class::partial, ahead, mask, chain);
      ahead.finish();
    }
  }
}

}  // namespace detail
HEED_ARCH_END
