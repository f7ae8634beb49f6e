/// The walk of one tile of queries over the blocks of keys that a mask shows it, in the order of the keys.
#pragma once

#include <heed/kernel/key_block.hpp>
#include <heed/kernel/softmax_rows.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// The bias of tile `tile` of a meeting's queries and a block of keys, [key][lane], or nullptr.
template <class Source, class S, class A>
const accumulator_t<S>* load_bias(const meeting<Source, S, A>& m, int tile, int queries, index_t block,
                                  const tile_buffers<accumulator_t<S>, A>& buffers) noexcept {
  using T = accumulator_t<S>;
  if (m.bias.data == nullptr) return nullptr;
  load_bias<T, A>(m.bias, m.first_query + tile * tile_shape<T, A>::queries, queries, m.first_key(block),
                  m.keys_of(block), buffers.bias);
  return buffers.bias;
}

/// Calls visit(number, key_block, tile_place, bias, whether the mask hides some pair) for blocks [first, last) of which
/// the first tile of a meeting's queries sees anything.
template <class Source, class S, class A, class Mask, class Visit>
void for_seen_blocks(const meeting<Source, S, A>& m, int queries, index_t first, index_t last,
                     const tile_buffers<accumulator_t<S>, A>& buffers, const windowed<Mask>& mask, const Visit& visit) {
  for (index_t number = std::max(first, m.begin); number < std::min(last, m.end); ++number) {
    const int count = m.keys_of(number);
    const tile_place here = m.place_of(0, number);
    const tile_class seen = mask.classify(here.b, here.h, here.query, here.query + queries, here.key, here.key + count);
    if (seen == tile_class::empty) continue;
    const key_block<Source, accumulator_t<S>, A> block(m.source, m.first_key(number), count, buffers);
    visit(number, block, here, load_bias(m, 0, queries, number, buffers), seen == tile_class::partial);
  }
}

}  // namespace detail
HEED_ARCH_END
