/// What a softmax call works on: its queries, its segments of keys, and where the two meet.
#pragma once

#include <heed/core/setting.hpp>
#include <heed/kernel/keys.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/score.hpp>
#include <heed/kernel/tile_io.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

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
    if (left >= 0) range.begin = std::max(range.begin, to_position(index_t(q0) - left));
    if (right >= 0) range.end = std::min(range.end, to_position(index_t(q1) + right));
    return range;
  }
};

template <class T, class A, class Mask>
HEED_INLINE mask_pack<T, A> visible(const windowed<Mask>& mask, const basic_position<index_pack<T, A>>& at) {
  mask_pack<T, A> seen = visible<T, A>(mask.mask, at);
  if (mask.left >= 0) seen = seen & (at.q <= index_pack<T, A>(to_position(at.kv + mask.left)));
  if (mask.right >= 0) seen = seen & (at.q >= index_pack<T, A>(to_position(at.kv - mask.right)));
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
  /// What stands for j in the above, or null: j itself.
  const std::int32_t* columns = nullptr;
};

/// to[key][lane] = bias(first_query + lane, first_key + key).
template <class T, class A, class S>
void load_bias(const bias_rows<S>& bias, index_t first_query, int queries, index_t first_key, int keys,
               T* to) noexcept {
  using shape = tile_shape<T, A>;
  using P = pack<T, A>;
  if (bias.columns != nullptr) {
    for (int j = 0; j < keys; ++j) {
      const S* const column =
          bias.data + first_query * bias.query_stride + bias.columns[first_key + j] * bias.key_stride;
      T* const lane = to + j * shape::queries;
      for (int i = 0; i < queries; ++i) lane[i] = static_cast<T>(column[i * bias.query_stride]);
      std::fill(lane + queries, lane + round_up(queries, shape::width), T(0));
    }
    return;
  }
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

/// What a call asks of its queries and its outputs; all of it checked.
template <class S>
struct softmax_rows {
  using element_type = S;
  using T = accumulator_t<S>;
  /// Whether tiles start from what an earlier call left: those that meet no key then stay as they are.
  static constexpr bool resumes = false;

  view<const S, 4> q;     // [B,H,N,D]
  view<S, 4> out;         // [B,H,N,E]
  view<T, 3> lse;         // [B,H,N] or empty
  view<const T, 1> sink;  // [H] or empty
  view<const S, 4> bias;  // broadcast to [B,H,N,M], or empty
  double scale;
  sequence_offsets cu_q;

  sequence_span queries(index_t sequence) const noexcept { return span_of(cu_q, sequence, q.extent(2)); }

  /// The state that a tile of loaded queries, of which this is the first row, starts from.
  template <class Tile, class Care>
  void open(Tile& tile, Care care, index_t, index_t, index_t) const noexcept {
    tile.clear(care);
  }
  /// What a tile leaves.
  template <class Tile>
  void close(Tile& tile, index_t b, index_t h, index_t row) const noexcept {
    tile.store_output(&out(b, h, row, 0), out.stride(2));
    if (lse) tile.store_lse(&lse(b, h, row), lse.stride(2));
  }
};

/// One set of keys that the queries attend to; a call has one or several.
template <class T, class Keys, class Mask>
struct softmax_segment_rows {
  Keys keys;
  windowed<Mask> mask;
  setting<index_t> q_offset;
  index_t kv_offset;
  view<const T, 1> log_weight;  // [H] or empty
  double blend;                 // factor of this segment's own softmax; used if the call blends
  /// Of each key the column of the bias, or null: its own number.
  const std::int32_t* bias_columns = nullptr;

  /// Position of the first of `queries` queries.
  index_t first_query(index_t sequence, index_t queries) const noexcept {
    return q_offset.or_default(keys.end(sequence) - queries);
  }
  index_t first_key(index_t sequence) const noexcept { return keys.position(sequence) + kv_offset; }
  /// What the weight of the segment adds to every logit of a head, in base 2.
  T log_weight2(index_t head) const noexcept { return log_weight ? log_weight[head] * log2_e<T> : T(0); }
};

/// Queries of one head that make a task: rows [first, first + count) of sequence `sequence`.
struct query_rows {
  int sequence, head;
  index_t first;
  int count;
};

/// Where some queries of one head meet the keys of a segment: positions, and the blocks that the mask may show them.
template <class Source, class S, class A>
struct meeting {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  Source source;
  bias_rows<S> bias;
  index_t first_query;  // row of its sequence
  tile_place place;     // of that query; the key is set for a block
  int kv_offset;
  T log_weight2;
  index_t begin = 0, end = 0;  // blocks of keys

  index_t first_key(index_t block) const noexcept { return block * shape::keys; }
  int keys_of(index_t block) const noexcept {
    return static_cast<int>(std::min<index_t>(shape::keys, source.count - first_key(block)));
  }
  /// Of tile `tile` of the queries and a block.
  tile_place place_of(int tile, index_t block) const noexcept {
    return {place.b, place.h, place.query + tile * shape::queries, static_cast<int>(first_key(block)) + kv_offset};
  }
};

template <class A, class S, class Keys, class Mask>
auto meet(const query_rows& at, index_t heads, index_t queries, const view<const S, 4>& bias,
          const softmax_segment_rows<accumulator_t<S>, Keys, Mask>& segment) {
  using T = accumulator_t<S>;
  using found = meeting<typename Keys::source_type, S, A>;
  constexpr index_t keys = found::shape::keys;
  found m{segment.keys.source(at.sequence, at.head / (heads / segment.keys.kv_heads())),
          {},
          at.first,
          {at.sequence, at.head, 0, 0},
          static_cast<int>(segment.first_key(at.sequence)),
          segment.log_weight2(at.head)};
  const index_t count = m.source.count;
  if (count == 0 || m.log_weight2 == -std::numeric_limits<T>::infinity()) return m;
  if (bias) {
    const index_t query_stride = bias.stride(2), key_stride = bias.stride(3);
    m.bias = {&bias(at.sequence, at.head, 0, 0), query_stride, key_stride,
              query_stride != 0 && key_stride == 1 && segment.bias_columns == nullptr &&
                  queries * count * index_t(sizeof(S)) > near_bytes,
              key_stride != 0 ? segment.bias_columns : nullptr};
  }
  m.place.query = static_cast<int>(at.first + segment.first_query(at.sequence, queries));
  const key_range range = segment.mask.keys(at.sequence, at.head, m.place.query, m.place.query + at.count);
  m.begin = std::max<index_t>(0, index_t(range.begin) - m.kv_offset) / keys;
  m.end = (std::min<index_t>(count, index_t(range.end) - m.kv_offset) + keys - 1) / keys;
  return m;
}

}  // namespace detail
HEED_ARCH_END
