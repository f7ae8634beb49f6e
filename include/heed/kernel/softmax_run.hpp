/// Runs a checked softmax call: cuts it into tasks, a few tiles of queries each, and lets them walk their segments of
/// keys.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/softmax_walk.hpp>

#include <span>

HEED_ARCH_BEGIN
namespace detail {

/// What a call asks of its queries and its outputs; all of it checked.
template <class S>
struct softmax_rows {
  using T = accumulator_t<S>;
  view<const S, 4> q;     // [B,H,N,D]
  view<S, 4> out;         // [B,H,N,E]
  view<T, 3> lse;         // [B,H,N] or empty
  view<const T, 1> sink;  // [H] or empty
  view<const S, 4> bias;  // broadcast to [B,H,N,M], or empty
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

/// The keys and values of kv head `group` that one sequence has in a segment.
template <class S, class Mask>
dense_source<S> source_of(const softmax_segment_rows<S, Mask>& segment, int sequence, index_t group) noexcept {
  const bool packed = static_cast<bool>(segment.cu_k);
  const index_t batch = packed ? 0 : sequence, first = packed ? segment.cu_k.at(sequence) : 0;
  const index_t count = packed ? segment.cu_k.at(sequence + 1) - first : segment.k.extent(2);
  if (count == 0) return {};
  return {&segment.k(batch, group, first, 0), &segment.v(batch, group, first, 0), segment.k.stride(2),
          segment.v.stride(2), count};
}

/// Queries of one head that make a task: rows [first, first + count) of sequence `sequence`.
struct query_rows {
  int sequence, head;
  index_t first;
  int count;
};

/// Numbers the tasks of a call, `size` queries each. Packed sequences get floor(cu[s] / size) + s as their first
/// number, which leaves enough numbers for each without a table; some stay empty.
class task_numbering {
 public:
  task_numbering(index_t batch, index_t heads, index_t queries, const sequence_offsets& cu, index_t size) noexcept
      : heads_(heads), queries_(queries), cu_(cu), size_(size) {
    sequences_ = cu ? cu.size() - 1 : batch;
    per_head_ = cu ? (sequences_ > 0 ? first_number(sequences_) : 0) : (queries + size - 1) / size;
  }

  index_t count() const noexcept { return cu_ ? heads_ * per_head_ : sequences_ * heads_ * per_head_; }

  /// Task `number`; count is 0 for an unused number. Later queries come first: under a causal mask they have most to
  /// do.
  query_rows at(index_t number) const noexcept {
    const index_t outer = number / per_head_, inner = per_head_ - 1 - number % per_head_;
    query_rows tile{};
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
  using shape = tile_shape<T, A>;
  softmax_workspace(scratch_cursor& memory, index_t features, index_t value_features, bool bias, bool blend) noexcept
      : buffers(memory, features, value_features, !std::is_same_v<S, T>, bias) {
    for (auto& tile : tiles) tile = softmax_tile<T, A>(memory, buffers);
    blended = blend ? memory.take<T>(value_features * shape::queries) : nullptr;
  }

  tile_buffers<T, A> buffers;
  softmax_tile<T, A> tiles[shape::tiles];
  T* blended;
};

template <class S, class A>
index_t softmax_worker_bytes(index_t features, index_t value_features, bool bias, bool blend) noexcept {
  scratch_cursor count(nullptr);
  softmax_workspace<S, A>(count, features, value_features, bias, blend);
  return count.used();
}

/// Attends `tile_count` tiles, from number `first_tile` of the task's rows on, to one segment.
template <class A, class S, class Mask, class... Mods>
HEED_NOINLINE void attend_segment(softmax_workspace<S, A>& space, int first_tile, int tile_count,
                                  const softmax_rows<S>& rows, const query_rows& at,
                                  const softmax_segment_rows<S, Mask>& segment, const score_chain<Mods...>& chain) {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  const bool packed = static_cast<bool>(rows.cu_q);
  const index_t group = at.head / (rows.q.extent(1) / segment.k.extent(1));
  const index_t batch = packed ? 0 : at.sequence;
  const index_t queries = packed ? rows.cu_q.at(at.sequence + 1) - rows.cu_q.at(at.sequence) : rows.q.extent(2);
  const dense_source<S> source = source_of(segment, at.sequence, group);
  if (source.count == 0) return;

  const T log_weight = segment.log_weight ? segment.log_weight[at.head] : T(0);
  if (log_weight == -std::numeric_limits<T>::infinity()) return;
  bias_rows<S> bias;
  if (rows.bias) {
    const index_t query_stride = rows.bias.stride(2), key_stride = rows.bias.stride(3);
    bias = {&rows.bias(batch, at.head, 0, 0), query_stride, key_stride,
            query_stride != 0 && key_stride == 1 && queries * source.count * index_t(sizeof(S)) > near_bytes};
  }
  const index_t q_offset = segment.q_offset.or_default(source.count - queries);
  const index_t first = at.first + first_tile * shape::queries;
  // Of the largest task that these tiles may be part of: their walk must not depend on how many are together.
  constexpr index_t together = shape::tiles * shape::queries;
  const index_t last = std::min(queries, (first / together + 1) * together) - 1;
  const tile_place place{at.sequence, at.head, static_cast<int>(first + q_offset), 0};
  attend<T, A>(space.tiles + first_tile, tile_count, space.buffers, source, place, first, last + q_offset,
               static_cast<int>(segment.kv_offset), bias, log_weight * log2_e<T>, segment.mask, chain);
}

/// Query rows of a task: several tiles, if there are enough for every worker to get many tasks.
template <class T, class A>
index_t rows_a_task(index_t tiles, index_t workers) noexcept {
  using shape = tile_shape<T, A>;
  int together = shape::tiles;
  while (together > 1 && tiles < 8 * workers * together) together /= 2;
  return together * shape::queries;
}

/// `for_each_segment(f)` calls f(softmax_segment_rows) for every segment, in order. `blend`: each segment has a softmax
/// of its own and the outputs are added with its factor.
template <class A, class S, class ForEachSegment, class... Mods>
void run_softmax(const checker& check, const softmax_rows<S>& rows, const ForEachSegment& for_each_segment, bool blend,
                 const score_chain<Mods...>& chain, scratch_view scratch, const executor_ref& where) {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  const index_t features = rows.q.extent(3), value_features = rows.out.extent(3);
  const auto numbering = [&](index_t size) {
    return task_numbering(rows.q.extent(0), rows.q.extent(1), rows.q.extent(2), rows.cu_q, size);
  };
  const task_numbering tasks = numbering(rows_a_task<T, A>(numbering(shape::queries).count(), where.concurrency));
  if (tasks.count() == 0) return;
  const bool bias = static_cast<bool>(rows.bias);
  const index_t share = round_up(softmax_worker_bytes<S, A>(features, value_features, bias, blend), cache_line);
  const scratch_block memory(check, scratch, scratch_total(share, where.concurrency));
  const T factor = static_cast<T>(chain.plain() ? rows.scale * double(log2_e<T>) : rows.scale);

  auto task = [&](index_t number, index_t worker) {
    const query_rows at = tasks.at(number);
    if (at.count == 0) return;
    scratch_cursor cursor(memory.data() + worker * share);
    softmax_workspace<S, A> space(cursor, features, value_features, bias, blend);
    const bool packed = static_cast<bool>(rows.cu_q);
    const index_t batch = packed ? 0 : at.sequence;
    const index_t row = at.first + (packed ? rows.cu_q.at(at.sequence) : 0);
    const int tile_count = (at.count + shape::queries - 1) / shape::queries;
    for (int i = 0; i < tile_count; ++i)
      space.tiles[i].load_queries(&rows.q(batch, at.head, row + i * shape::queries, 0), rows.q.stride(2),
                                  std::min(shape::queries, at.count - i * shape::queries), factor);

    const auto attend_tiles = [&](int first, int count, tile_care care) {
      const auto tiles = std::span(space.tiles + first, static_cast<std::size_t>(count));
      for (auto& tile : tiles) tile.clear(care);
      for_each_segment([&](const auto& segment) { attend_segment<A>(space, first, count, rows, at, segment, chain); });
      if (rows.sink)
        for (auto& tile : tiles) tile.absorb_sink(rows.sink[at.head]);
    };
    const auto blend_tile = [&](int i, tile_care care) {
      std::fill_n(space.blended, value_features * shape::queries, T(0));
      for_each_segment([&](const auto& segment) {
        space.tiles[i].clear(care);
        attend_segment<A>(space, i, 1, rows, at, segment, chain);
        space.tiles[i].add_blended(space.blended, static_cast<T>(segment.blend));
      });
      space.tiles[i].set_output(space.blended);
    };
    // Values of excluded pairs must not reach the result, not even times zero. Products with weights of zero are the
    // fast way to leave them out, and right unless one of them is infinite or NaN; the result shows that.
    if (!blend) attend_tiles(0, tile_count, tile_care::none);
    for (int i = 0; i < tile_count; ++i) {
      auto& tile = space.tiles[i];
      if (blend) blend_tile(i, tile_care::none);
      for (const tile_care care : {tile_care::values, tile_care::range}) {
        if (tile.finite()) break;
        if (blend)
          blend_tile(i, care);
        else
          attend_tiles(i, 1, care);
      }
      const index_t first = row + i * shape::queries;
      tile.store_output(&rows.out(batch, at.head, first, 0), rows.out.stride(2));
      if (rows.lse) tile.store_lse(&rows.lse(batch, at.head, first), rows.lse.stride(2));
    }
  };
  for_each_task(where, tasks.count(), task);
}

}  // namespace detail
HEED_ARCH_END
