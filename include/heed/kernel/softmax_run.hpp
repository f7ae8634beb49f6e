/// Runs a checked softmax call: cuts it into tasks, one tile of queries each, and lets every tile walk its segments of keys.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/softmax_walk.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a call asks of its queries and its outputs; all of it checked.
template <class S>
struct softmax_rows {
  using T = accumulator_t<S>;
  view<const S, 4> q;    // [B,H,N,D]
  view<S, 4> out;        // [B,H,N,E]
  view<T, 3> lse;        // [B,H,N] or empty
  view<const T, 1> sink; // [H] or empty
  view<const S, 4> bias; // broadcast to [B,H,N,M], or empty
  double scale;
  sequence_offsets cu_q;
};

/// One set of keys that the queries attend to; a call has one or several.
template <class S, class Mask>
struct softmax_segment_rows {
  using T = accumulator_t<S>;
  view<const S, 4> k;  // [B,G,M,D], batch stride 0 if shared
  view<const S, 4> v;  // [B,G,M,E]
  sequence_offsets cu_k;
  windowed<Mask> mask;
  setting<index_t> q_offset;
  index_t kv_offset;
  view<const T, 1> log_weight;  // [H] or empty
  double blend;                 // factor of this segment's own softmax; used if the call blends
};

/// A tile of queries of one head: rows [first, first + count) of sequence `sequence`.
struct query_tile {
  int sequence, head;
  index_t first;
  int count;
};

/// Numbers the query tiles of a call. Packed sequences get floor(cu[s] / size) + s as their first number, which leaves
/// enough numbers for each without a table; some stay empty.
class tile_numbering {
 public:
  tile_numbering(index_t batch, index_t heads, index_t queries, const sequence_offsets& cu, index_t size) noexcept
      : heads_(heads), queries_(queries), cu_(cu), size_(size) {
    sequences_ = cu ? cu.size() - 1 : batch;
    per_head_ = cu ? (sequences_ > 0 ? first_number(sequences_) : 0) : (queries + size - 1) / size;
  }

  index_t count() const noexcept { return cu_ ? heads_ * per_head_ : sequences_ * heads_ * per_head_; }

  /// Tile `number`; count is 0 for an unused number. Later queries come first: under a causal mask they have most to do.
  query_tile at(index_t number) const noexcept {
    const index_t outer = number / per_head_, inner = per_head_ - 1 - number % per_head_;
    query_tile tile{};
    index_t length = queries_, index = inner;
    if (cu_) {
      tile.head = static_cast<int>(outer);
      index_t low = 0, high = sequences_ - 1;
      while (low < high) {
        const index_t middle = (low + high + 1) / 2;
        if (first_number(middle) <= inner)
          low = middle;
        else
          high = middle - 1;
      }
      tile.sequence = static_cast<int>(low);
      length = cu_.at(low + 1) - cu_.at(low);
      index = inner - first_number(low);
    } else {
      tile.sequence = static_cast<int>(outer / heads_);
      tile.head = static_cast<int>(outer % heads_);
    }
    tile.first = index * size_;
    tile.count = static_cast<int>(std::clamp<index_t>(length - tile.first, 0, size_));
    return tile;
  }

 private:
  index_t first_number(index_t sequence) const noexcept { return cu_.at(sequence) / size_ + sequence; }

  index_t heads_, queries_;
  sequence_offsets cu_;
  index_t size_, sequences_, per_head_;
};

/// Scratch of one worker.
template <class S, class A>
struct softmax_workspace {
  using T = accumulator_t<S>;
  softmax_workspace(scratch_cursor& memory, index_t features, index_t value_features, bool bias, bool blend) noexcept
      : tile(memory, features, value_features, !std::is_same_v<S, T>, bias),
        blended(blend ? memory.take<T>(value_features * tile_shape<T, A>::queries) : nullptr) {}

  softmax_tile<T, A> tile;
  T* blended;
};

template <class S, class A>
index_t softmax_worker_bytes(index_t features, index_t value_features, bool bias, bool blend) noexcept {
  scratch_cursor count(nullptr);
  softmax_workspace<S, A>(count, features, value_features, bias, blend);
  return count.used();
}

/// Attends one tile to one segment.
template <class A, class S, class Mask, class... Mods>
void attend_segment(softmax_tile<accumulator_t<S>, A>& tile, const softmax_rows<S>& rows, const query_tile& at,
                    const softmax_segment_rows<S, Mask>& segment, const score_chain<Mods...>& chain) {
  using T = accumulator_t<S>;
  const bool packed = static_cast<bool>(rows.cu_q);
  const index_t group = at.head / (rows.q.extent(1) / segment.k.extent(1));
  const index_t batch = packed ? 0 : at.sequence;
  const index_t first_key = packed ? segment.cu_k.at(at.sequence) : 0;
  const index_t queries = packed ? rows.cu_q.at(at.sequence + 1) - rows.cu_q.at(at.sequence) : rows.q.extent(2);
  dense_source<S> source;
  source.count = packed ? segment.cu_k.at(at.sequence + 1) - first_key : segment.k.extent(2);
  if (source.count == 0) return;
  source.key_data = &segment.k(batch, group, first_key, 0);
  source.value_data = &segment.v(batch, group, first_key, 0);
  source.key_stride = segment.k.stride(2);
  source.value_stride = segment.v.stride(2);

  const T log_weight = segment.log_weight ? segment.log_weight[at.head] : T(0);
  if (log_weight == -std::numeric_limits<T>::infinity()) return;
  bias_rows<S> bias;
  if (rows.bias)
    bias = {&rows.bias(batch, at.head, 0, 0), rows.bias.stride(2), rows.bias.stride(3)};
  const index_t q_offset = segment.q_offset.or_default(source.count - queries);
  const tile_place place{at.sequence, at.head, static_cast<int>(at.first + q_offset), 0};
  attend<T, A>(tile, source, place, at.first, at.count, static_cast<int>(segment.kv_offset), bias,
               log_weight * log2_e<T>, segment.mask, chain);
}

/// `for_each_segment(f)` calls f(softmax_segment_rows) for every segment, in order. `blend`: each segment has a softmax of
/// its own and the outputs are added with its factor.
template <class A, class S, class ForEachSegment, class... Mods>
void run_softmax(const checker& check, const softmax_rows<S>& rows, const ForEachSegment& for_each_segment, bool blend,
                 const score_chain<Mods...>& chain, scratch_view scratch, const executor_ref& where) {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  const index_t features = rows.q.extent(3), value_features = rows.out.extent(3);
  const tile_numbering tiles(rows.q.extent(0), rows.q.extent(1), rows.q.extent(2), rows.cu_q, shape::queries);
  if (tiles.count() == 0) return;
  const bool bias = static_cast<bool>(rows.bias);
  const index_t share = round_up(softmax_worker_bytes<S, A>(features, value_features, bias, blend), cache_line);
  const scratch_block memory(check, scratch, scratch_total(share, where.concurrency));
  const T factor = static_cast<T>(chain.plain() ? rows.scale * double(log2_e<T>) : rows.scale);

  auto task = [&](index_t number, index_t worker) {
    const query_tile at = tiles.at(number);
    if (at.count == 0) return;
    scratch_cursor cursor(memory.data() + worker * share);
    softmax_workspace<S, A> space(cursor, features, value_features, bias, blend);
    const bool packed = static_cast<bool>(rows.cu_q);
    const index_t batch = packed ? 0 : at.sequence;
    const index_t row = at.first + (packed ? rows.cu_q.at(at.sequence) : 0);
    space.tile.load_queries(&rows.q(batch, at.head, row, 0), rows.q.stride(2), at.count, factor);
    if (blend) {
      std::fill_n(space.blended, value_features * shape::queries, T(0));
      for_each_segment([&](const auto& segment) {
        space.tile.clear();
        attend_segment<A>(space.tile, rows, at, segment, chain);
        space.tile.add_blended(space.blended, static_cast<T>(segment.blend));
      });
      space.tile.set_output(space.blended);
    } else {
      for_each_segment([&](const auto& segment) { attend_segment<A>(space.tile, rows, at, segment, chain); });
      if (rows.sink) space.tile.absorb_sink(rows.sink[at.head]);
    }
    space.tile.store_output(&rows.out(batch, at.head, row, 0), rows.out.stride(2));
    if (rows.lse) space.tile.store_lse(&rows.lse(batch, at.head, row), rows.lse.stride(2));
  };
  for_each_task(where, tiles.count(), task);
}

}  // namespace detail
HEED_ARCH_END
