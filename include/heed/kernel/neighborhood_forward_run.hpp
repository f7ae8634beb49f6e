/// Runs a checked call of neighborhood attention: strips of tiles, each of which walks the region of its keys.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/neighborhood_rows.hpp>
#include <heed/kernel/softmax_tile.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a call asks of its queries and its outputs; all of it checked.
template <class S>
struct neighborhood_rows {
  view<const S, 4> q;             // [B,H,N,D]
  view<S, 4> out;                 // [B,H,N,E]
  view<accumulator_t<S>, 3> lse;  // [B,H,N] or empty
  double scale, softcap;
};

/// Scratch of one worker.
template <class S, class A>
struct neighborhood_workspace {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  neighborhood_workspace(scratch_cursor& memory, index_t features, index_t value_features, index_t table_size) noexcept
      : buffers(memory, features, value_features, !std::is_same_v<S, T>, table_size > 0),
        tile(memory, buffers),
        idle(memory.take<S>(value_features)),
        table(memory.take<T>(round_up(table_size, shape::width))) {}

  tile_buffers<T, A> buffers;
  softmax_tile<T, A> tile;
  S* idle;  // [E], for what no query asked for
  T* table;
};

template <class S, class A>
index_t neighborhood_worker_bytes(index_t features, index_t value_features, index_t table_size) noexcept {
  scratch_cursor count(nullptr);
  neighborhood_workspace<S, A>(count, features, value_features, table_size);
  return count.used();
}

/// A call in progress.
template <class A, class S>
class neighborhood_forward_run {
 public:
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  neighborhood_forward_run(const neighborhood_rows<S>& rows, const neighborhood_keys<S>& keys,
                           const neighborhood_axes& axes) noexcept
      : rows_(rows), keys_(keys), cut_(axes), chain_{rows.softcap, {}} {}

  void run(const checker& check, scratch_view scratch, const executor_ref& where) {
    const index_t heads = rows_.q.extent(1),
                  tiles = rows_.q.extent(0) * heads * cut_.groups() * cut_.columns() * cut_.tiles();
    if (tiles == 0) return;
    const index_t table_size = keys_.bias.extent(1);
    const index_t share =
        round_up(neighborhood_worker_bytes<S, A>(keys_.features(), keys_.value_features(), table_size), cache_line);
    const scratch_block memory(check, scratch, scratch_total(share, where.concurrency));
    // A tile's work depends on no other, so how many make a task may depend on who runs them. Neighboring columns share
    // most of their keys.
    index_t together = shape::tiles;
    while (together > 1 && tiles < 8 * where.concurrency * together) together /= 2;
    const index_t tasks_of_row = (cut_.columns() + together - 1) / together;

    auto task = [&](index_t number, index_t worker) {
      scratch_cursor cursor(memory.data() + worker * share);
      neighborhood_workspace<S, A> space(cursor, keys_.features(), keys_.value_features(), table_size);
      const index_t first = number % tasks_of_row * together, row = number / tasks_of_row % cut_.tiles();
      const index_t of_head = number / (tasks_of_row * cut_.tiles());
      const neighborhood_place group = cut_.group(of_head % cut_.groups());
      const index_t head = of_head / cut_.groups() % heads, batch = of_head / (cut_.groups() * heads);
      load_table<T, A>(keys_.bias, head, space.table);
      for (index_t column = first; column < std::min(first + together, cut_.columns()); ++column) {
        const neighborhood_tile<T, A> tile(cut_, group, cut_.corner(column, row));
        if (tile.vectors() > 0) attend_tile(space, tile, batch, head);
      }
    };
    for_each_task(where, tiles / cut_.columns() * tasks_of_row, task);
  }

 private:
  void attend_tile(neighborhood_workspace<S, A>& space, const neighborhood_tile<T, A>& tile, index_t batch,
                   index_t head) const noexcept {
    const S* queries[shape::queries];
    list_rows(tile, rows_.q[batch][head], queries);
    space.tile.load_queries(pointed_rows<const S>{queries}, tile.lanes(),
                            static_cast<T>(chain_.plain() ? rows_.scale * double(log2_e<T>) : rows_.scale));
    // Outputs, and the next tile's queries, come from far away while this one is at work.
    prefetcher ahead;
    if (tile.in_line()) {
      call_line(ahead, tile, batch, head);
    } else {
      call_rows<1>(tile, rows_.out[batch][head], 0);
      call_rows<0>(tile, rows_.q[batch][head], cut_.next_tile());
    }
    const auto attend = [&](tile_care care) {
      space.tile.clear(care);
      attend_keys(space, tile, batch, head, ahead);
    };
    attend(tile_care::none);
    attend_with_more_care(space.tile, attend);
    S* outputs[shape::queries];
    list_rows(tile, rows_.out[batch][head], space.idle, outputs);
    space.tile.store_output(pointed_rows<S>{outputs});
    if (!rows_.lse) return;
    T lse[shape::queries];
    space.tile.store_lse(lse, 1);
    for (int lane = 0; lane < tile.lanes(); ++lane)
      if (tile.live(lane)) rows_.lse(batch, head, tile.token(lane)) = lse[lane];
  }

  /// Adds what comes from far away while a tile of a line is at work: its outputs, and of the next tile the queries and
  /// those keys that this one has not.
  void call_line(prefetcher& ahead, const neighborhood_tile<T, A>& tile, index_t batch, index_t head) const noexcept {
    const index_t group = head / (rows_.q.extent(1) / keys_.k.extent(1)), step = tile.distance();
    const auto add = [&](const auto& tensor, index_t of_head, index_t token) {
      const index_t count = std::min<index_t>(tile.lanes(), (tensor.extent(2) - token + step - 1) / step);
      if (count > 0) ahead.add(&tensor(batch, of_head, token, 0), tensor.stride(2) * step, count, tensor.extent(3));
    };
    add(rows_.out, head, tile.token(0));
    add(rows_.q, head, tile.token(0) + cut_.next_tile());
    add(keys_.k, group, tile.last_key() + step);
    add(keys_.v, group, tile.last_key() + step);
    ahead.spread(index_t(tile.keys()) * tile.vectors());
  }

  void attend_keys(neighborhood_workspace<S, A>& space, const neighborhood_tile<T, A>& tile, index_t batch,
                   index_t head, prefetcher& ahead) const noexcept {
    const index_t group = head / (rows_.q.extent(1) / keys_.k.extent(1));
    neighborhood_block<T, A> block;
    const neighborhood_view<T, A> mask{tile, block};
    const auto absorb = [&](const auto& source, const T* bias, bool partial) {
      const key_block<std::remove_cvref_t<decltype(source)>, T, A> rows(source, 0, static_cast<int>(source.count),
                                                                        space.buffers);
      space.tile.absorb(rows, {static_cast<int>(batch), static_cast<int>(head), 0, 0}, bias, T(0), partial, ahead, mask,
                        chain_);
    };
    if (keys_.k_extra)
      for_blocks_of_extra<T, A>(keys_.k_extra[batch][group], keys_.v_extra[batch][group],
                                [&](const auto& source, index_t) { absorb(source, nullptr, false); });
    const auto k = keys_.k[batch][group], v = keys_.v[batch][group];
    const neighborhood_entries<T, A> entries(cut_, tile, static_cast<bool>(keys_.bias));
    for (int first = 0; first < tile.keys(); first += shape::keys) {
      tile.load_block(first, block);
      if (keys_.bias)
        expand_bias(entries, tile, block, space.table, static_cast<int>(keys_.bias.extent(1)), space.buffers.bias);
      with_rows_of_block(tile, block, k, v,
                         [&](const auto& source) { absorb(source, keys_.bias ? space.buffers.bias : nullptr, true); });
    }
  }

  const neighborhood_rows<S>& rows_;
  const neighborhood_keys<S>& keys_;
  neighborhood_cut<T, A> cut_;
  score_chain<> chain_;
};

}  // namespace detail
HEED_ARCH_END
