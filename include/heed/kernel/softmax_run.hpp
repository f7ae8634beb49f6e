/// Runs a checked softmax call: cuts it into tasks, a few tiles of queries each, and lets them walk their segments of
/// keys.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/softmax_walk.hpp>
#include <heed/kernel/task_numbering.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Scratch of one worker.
template <class S, class A>
struct softmax_workspace {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  softmax_workspace(scratch_cursor& memory, index_t features, index_t value_features, bool convert, bool bias,
                    bool blend) noexcept
      : buffers(memory, features, value_features, convert, bias) {
    for (auto& tile : tiles) tile = softmax_tile<T, A>(memory, buffers);
    blended = blend ? memory.take<T>(value_features * shape::queries) : nullptr;
  }

  tile_buffers<T, A> buffers;
  softmax_tile<T, A> tiles[shape::tiles];
  T* blended;
};

template <class S, class A>
index_t softmax_worker_bytes(index_t features, index_t value_features, bool convert, bool bias, bool blend) noexcept {
  scratch_cursor count(nullptr);
  softmax_workspace<S, A>(count, features, value_features, convert, bias, blend);
  return count.used();
}

/// Attends `tile_count` tiles, from number `first_tile` of the task's rows on, to one segment.
template <class A, class S, class Segment, class... Mods>
HEED_NOINLINE void attend_segment(softmax_workspace<S, A>& space, int first_tile, int tile_count,
                                  const softmax_rows<S>& rows, const query_rows& at, const Segment& segment,
                                  const score_chain<Mods...>& chain) {
  using shape = tile_shape<accumulator_t<S>, A>;
  const index_t queries = rows.queries(at.sequence).count, before = index_t(first_tile) * shape::queries;
  const query_rows some{at.sequence, at.head, at.first + before,
                        std::min(tile_count * shape::queries, at.count - static_cast<int>(before))};
  const auto m = meet<A>(some, rows.q.extent(1), queries, rows.bias, segment);
  // Of the largest task that these tiles may be part of: their walk must not depend on how many are together.
  constexpr index_t together = shape::tiles * shape::queries;
  const index_t last = std::min(queries, (some.first / together + 1) * together) - 1;
  attend(space.tiles + first_tile, tile_count, space.buffers, m, m.place.query + (last - some.first), segment.mask,
         chain);
}

/// Whether the queries of a task meet any key.
template <class A, class S, class ForEachSegment>
bool meets_keys(const softmax_rows<S>& rows, const query_rows& at, const ForEachSegment& for_each_segment) {
  bool some = false;
  for_each_segment([&](const auto& segment) {
    const auto m = meet<A>(at, rows.q.extent(1), rows.queries(at.sequence).count, rows.bias, segment);
    some = some || m.begin < m.end;
  });
  return some;
}

/// `rows`: softmax_rows, or rows derived from them. `for_each_segment(f)` calls f(softmax_segment_rows) for every
/// segment, in order. `blend`: each segment has a softmax of its own and the outputs are added with its factor.
template <class A, class Rows, class ForEachSegment, class... Mods>
void run_softmax(const checker& check, const Rows& rows, const ForEachSegment& for_each_segment, bool blend,
                 const score_chain<Mods...>& chain, scratch_view scratch, const executor_ref& where) {
  using S = typename Rows::element_type;
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  const index_t features = rows.q.extent(3), value_features = rows.out.extent(3);
  const auto numbering = [&](index_t size) {
    return task_numbering(rows.q.extent(0), rows.q.extent(1), rows.q.extent(2), rows.cu_q, size);
  };
  const task_numbering tasks = numbering(rows_a_task<T, A>(numbering(shape::queries).count(), where.concurrency));
  if (tasks.count() == 0) return;
  const bool bias = static_cast<bool>(rows.bias);
  bool convert = false;
  for_each_segment([&](const auto& segment) {
    using source_type = typename std::remove_cvref_t<decltype(segment.keys)>::source_type;
    convert = convert || converts_rows<source_type, T>;
  });
  const index_t share =
      round_up(softmax_worker_bytes<S, A>(features, value_features, convert, bias, blend), cache_line);
  const scratch_block memory(check, scratch, scratch_total(share, where.concurrency));
  const T factor = static_cast<T>(chain.plain() ? rows.scale * double(log2_e<T>) : rows.scale);

  auto task = [&](index_t number, index_t worker) {
    const query_rows at = tasks.at(number);
    if (at.count == 0) return;
    if constexpr (Rows::resumes)
      if (!meets_keys<A>(rows, at, for_each_segment)) return;
    scratch_cursor cursor(memory.data() + worker * share);
    softmax_workspace<S, A> space(cursor, features, value_features, convert, bias, blend);
    const sequence_span queries = rows.queries(at.sequence);
    const index_t batch = queries.batch, row = queries.first + at.first;
    const int tile_count = (at.count + shape::queries - 1) / shape::queries;
    for (int i = 0; i < tile_count; ++i)
      space.tiles[i].load_queries(&rows.q(batch, at.head, row + i * shape::queries, 0), rows.q.stride(2),
                                  std::min(shape::queries, at.count - i * shape::queries), factor);

    const auto attend_tiles = [&](int first, int count, tile_care care) {
      for (int i = first; i < first + count; ++i)
        rows.open(space.tiles[i], care, batch, at.head, row + i * shape::queries);
      for_each_segment(
          [&](const auto& segment) { attend_segment<A, S>(space, first, count, rows, at, segment, chain); });
      if (rows.sink && !Rows::resumes)
        for (int i = first; i < first + count; ++i) space.tiles[i].absorb_sink(rows.sink[at.head]);
    };
    const auto blend_tile = [&](int i, tile_care care) {
      std::fill_n(space.blended, value_features * shape::queries, T(0));
      for_each_segment([&](const auto& segment) {
        space.tiles[i].clear(care);
        attend_segment<A, S>(space, i, 1, rows, at, segment, chain);
        space.tiles[i].add_blended(space.blended, static_cast<T>(segment.blend));
      });
      space.tiles[i].set_output(space.blended);
    };
    if (!blend) attend_tiles(0, tile_count, tile_care::none);
    for (int i = 0; i < tile_count; ++i) {
      auto& tile = space.tiles[i];
      if (blend) blend_tile(i, tile_care::none);
      attend_with_more_care(tile, [&](tile_care care) {
        if (blend)
          blend_tile(i, care);
        else
          attend_tiles(i, 1, care);
      });
      rows.close(tile, batch, at.head, row + i * shape::queries);
    }
  };
  for_each_task(where, tasks.count(), task);
}

}  // namespace detail
HEED_ARCH_END
