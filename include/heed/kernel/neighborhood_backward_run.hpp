/// Runs a checked backward call of neighborhood attention: tasks that own the gradients of the keys of one group of
/// tokens, or leave partial sums of them to be added up.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/gradient_rows.hpp>
#include <heed/kernel/gradient_tile.hpp>
#include <heed/kernel/neighborhood_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a call asks of its queries, and its outputs; all of it checked.
template <class S>
struct neighborhood_gradient_rows {
  using T = accumulator_t<S>;
  view<const S, 4> q;     // [B,H,N,D]
  view<const S, 4> out;   // [B,H,N,E]
  view<const T, 3> lse;   // [B,H,N]
  view<const S, 4> dout;  // [B,H,N,E]
  view<const T, 3> dlse;  // [B,H,N] or empty
  view<S, 4> dq;          // [B,H,N,D]
  view<S, 4> dk;          // [B,G,N,D]
  view<S, 4> dv;          // [B,G,N,E]
  view<S, 4> dk_extra;    // [B,G,M2,D] or empty
  view<S, 4> dv_extra;    // [B,G,M2,E]
  view<S, 2> dbias;       // [H,R] or empty
  double scale, softcap;
};

/// Scratch of one worker.
template <class S, class A>
struct neighborhood_gradient_workspace {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  neighborhood_gradient_workspace(scratch_cursor& memory, index_t features, index_t value_features, index_t table_size,
                                  bool by_bias, index_t sums_size) noexcept
      : buffers(memory, features, value_features, !std::is_same_v<S, T>, table_size > 0),
        tile(memory, buffers),
        q(memory.take<S>(shape::queries * features)),
        out(memory.take<S>(shape::queries * value_features)),
        dout(memory.take<S>(shape::queries * value_features)),
        table(memory.take<T>(round_up(table_size, shape::width))),
        table_sums(memory.take<double>(by_bias ? table_size : 0)),
        sums(memory.take<T>(sums_size)) {}

  gradient_buffers<T, A> buffers;
  gradient_tile<T, A> tile;
  S *q, *out, *dout;  // [lane][feature]
  T* table;
  double* table_sums;
  T* sums;  // gradients of all keys of a kv head, where outputs are of another type and no other task adds to them
};

/// A call in progress.
template <class A, class S>
class neighborhood_backward_run {
 public:
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  neighborhood_backward_run(const neighborhood_gradient_rows<S>& rows, const neighborhood_keys<S>& keys,
                            const neighborhood_axes& axes) noexcept
      : rows_(rows),
        keys_(keys),
        cut_(axes),
        chain_{rows.softcap, {}},
        key_pitch_(round_up(keys.features(), row_unit)),
        row_pitch_(key_pitch_ + round_up(keys.value_features(), row_unit)),
        units_(keys.k.extent(0) * keys.k.extent(1) * cut_.groups()) {
    if (units_ == 0 || rows.q.extent(1) == 0) return;
    heads_ = rows.q.extent(1) / keys.k.extent(1);
    tiles_ = heads_ * cut_.tiles() * cut_.columns();
    const index_t wanted = (enough_tasks + units_ - 1) / units_;
    const index_t affordable = std::max<index_t>(2, most_partial_sums / sums_of_slot());
    parts_ = std::min({wanted, affordable, tiles_});
  }

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + shared_bytes();
  }

  void run(const checker& check, scratch_view scratch, const executor_ref& where) {
    if (tiles_ == 0) return;
    const index_t share = worker_bytes(), batch = keys_.k.extent(0), groups = keys_.k.extent(1);
    const scratch_block memory(check, scratch, bytes(where));
    T* const slots = reinterpret_cast<T*>(memory.data() + share * where.concurrency);
    T* const extra = slots + slots_of_token() * sums_of_slot();
    auto task = [&](index_t number, index_t worker) {
      workspace space = space_at(memory.data() + worker * share);
      differentiate(space, number, slots, extra + number * extra_keys() * row_pitch_);
    };
    for_each_task(where, units_ * parts_, task);

    if (parts_ > 1) {
      auto add = [&](index_t number, index_t) { add_up(slots, number); };
      for_each_task(where, batch * groups * pieces_of_head, add);
    }
    if (extra_keys() > 0) {
      auto add = [&](index_t number, index_t) { add_up_extra(extra, number); };
      for_each_task(where, batch * groups, add);
    }
    if (rows_.dbias) {
      auto of_head = [&](index_t head, index_t worker) {
        workspace space = space_at(memory.data() + worker * share);
        differentiate_table(space, head);
      };
      for_each_task(where, rows_.q.extent(1), of_head);
    }
  }

 private:
  using workspace = neighborhood_gradient_workspace<S, A>;

  static constexpr bool same_type = std::is_same_v<S, T>;
  /// Elements; rows of sums are aligned.
  static constexpr index_t row_unit = cache_line / index_t(sizeof(T));
  /// So that many workers have something to do where there are few heads.
  static constexpr index_t enough_tasks = 16;
  /// Elements of all partial sums together.
  static constexpr index_t most_partial_sums = index_t(1) << 24;
  static constexpr index_t pieces_of_head = 8;

  index_t extra_keys() const noexcept { return keys_.k_extra.extent(2); }
  index_t sums_of_head() const noexcept { return keys_.k.extent(2) * row_pitch_; }
  index_t sums_of_slot() const noexcept { return keys_.k.extent(0) * keys_.k.extent(1) * sums_of_head(); }
  /// Partial sums of every key. The first part adds to the outputs themselves, if their type allows.
  index_t slots_of_token() const noexcept { return parts_ <= 1 ? 0 : parts_ - (same_type ? 1 : 0); }

  index_t worker_bytes() const noexcept {
    scratch_cursor count(nullptr);
    make_space(count);
    return round_up(count.used(), cache_line);
  }
  index_t shared_bytes() const noexcept {
    return (slots_of_token() * sums_of_slot() + units_ * parts_ * extra_keys() * row_pitch_) * index_t(sizeof(T));
  }

  workspace make_space(scratch_cursor& cursor) const noexcept {
    return {cursor,
            keys_.features(),
            keys_.value_features(),
            keys_.bias.extent(1),
            static_cast<bool>(rows_.dbias),
            same_type || parts_ > 1 ? 0 : sums_of_head()};
  }
  workspace space_at(std::byte* memory) const noexcept {
    scratch_cursor cursor(memory);
    return make_space(cursor);
  }

  gradient_target<T> target_of(T* rows) const noexcept { return {rows, row_pitch_, rows + key_pitch_, row_pitch_}; }

  void clear(const gradient_target<T>& target, index_t row) const noexcept {
    std::fill_n(target.dk + row * target.dk_stride, keys_.features(), T(0));
    std::fill_n(target.dv + row * target.dv_stride, keys_.value_features(), T(0));
  }

  /// Part of the tiles of a unit, a group of tokens of one kv head.
  void differentiate(workspace& space, index_t number, T* slots, T* extra) const noexcept {
    const index_t part = number % parts_, unit = number / parts_, kv_heads = keys_.k.extent(1);
    const neighborhood_place group = cut_.group(unit % cut_.groups());
    const index_t kv_head = unit / cut_.groups() % kv_heads, batch = unit / (cut_.groups() * kv_heads);
    const index_t slot = part - (same_type ? 1 : 0);
    gradient_target<T> target{};
    if (parts_ > 1 && slot >= 0)
      target = target_of(slots + slot * sums_of_slot() + (batch * kv_heads + kv_head) * sums_of_head());
    else if constexpr (same_type)
      target = {&rows_.dk(batch, kv_head, 0, 0), rows_.dk.stride(2), &rows_.dv(batch, kv_head, 0, 0),
                rows_.dv.stride(2)};
    else
      target = target_of(space.sums);
    cut_.for_tokens(group, [&](index_t token) { clear(target, token); });
    for (index_t j = 0; j < extra_keys(); ++j) clear(target_of(extra), j);

    index_t loaded = -1;
    for (index_t i = tiles_ * part / parts_; i < tiles_ * (part + 1) / parts_; ++i) {
      const index_t head = kv_head * heads_ + i / (cut_.tiles() * cut_.columns());
      if (head != loaded) load_table<T, A>(keys_.bias, head, space.table);
      loaded = head;
      const neighborhood_tile<T, A> tile(cut_, group,
                                         cut_.corner(i % cut_.columns(), i / cut_.columns() % cut_.tiles()));
      if (tile.vectors() > 0) differentiate_tile(space, tile, batch, head, target, target_of(extra));
    }
    if constexpr (!same_type)
      if (parts_ == 1)
        cut_.for_tokens(group, [&](index_t token) {
          sum_rows<T, A>(target.dk + token * row_pitch_, 0, 1, false, &rows_.dk(batch, kv_head, token, 0),
                         keys_.features());
          sum_rows<T, A>(target.dv + token * row_pitch_, 0, 1, false, &rows_.dv(batch, kv_head, token, 0),
                         keys_.value_features());
        });
  }

  void load_tile(workspace& space, const neighborhood_tile<T, A>& tile, index_t batch, index_t head) const noexcept {
    const index_t d = keys_.features(), e = keys_.value_features();
    gather_rows(tile, rows_.q[batch][head], space.q);
    gather_rows(tile, rows_.out[batch][head], space.out);
    gather_rows(tile, rows_.dout[batch][head], space.dout);
    T lse[shape::queries], dlse[shape::queries];
    for (int lane = 0; lane < tile.lanes(); ++lane) {
      // Repetitions get weights of zero.
      lse[lane] = tile.live(lane) ? rows_.lse(batch, head, tile.token(lane)) : std::numeric_limits<T>::infinity();
      dlse[lane] = rows_.dlse && tile.live(lane) ? rows_.dlse(batch, head, tile.token(lane)) : T(0);
    }
    space.tile.load(gradient_tile_rows<S>{space.q, d, space.out, e, space.dout, e, lse, 1, dlse, 1}, tile.lanes(),
                    static_cast<T>(chain_.plain() ? rows_.scale * double(log2_e<T>) : rows_.scale));
  }

  tile_place place(index_t batch, index_t head) const noexcept {
    return {static_cast<int>(batch), static_cast<int>(head), 0, 0};
  }

  /// Calls visit(block, its rows, bias) for the blocks of a tile's region.
  template <class Visit>
  void for_blocks_of(workspace& space, const neighborhood_tile<T, A>& tile, index_t batch, index_t head,
                     const Visit& visit) const noexcept {
    const auto k = keys_.k[batch][head / heads_], v = keys_.v[batch][head / heads_];
    const neighborhood_entries<T, A> entries(cut_, tile, static_cast<bool>(keys_.bias));
    neighborhood_block<T, A> block;
    for (int first = 0; first < tile.keys(); first += shape::keys) {
      tile.load_block(first, block);
      if (keys_.bias)
        expand_bias(entries, tile, block, space.table, static_cast<int>(keys_.bias.extent(1)), space.buffers.bias);
      with_rows_of_block(tile, block, k, v,
                         [&](const auto& source) { visit(block, source, keys_.bias ? space.buffers.bias : nullptr); });
    }
  }

  void differentiate_tile(workspace& space, const neighborhood_tile<T, A>& tile, index_t batch, index_t head,
                          const gradient_target<T>& target, const gradient_target<T>& extra) const noexcept {
    const gradient_buffers<T, A>& buffers = space.buffers;
    load_tile(space, tile, batch, head);
    // Sums of a block, to the rows that `row` tells.
    const auto absorb = [&](const auto& source, const neighborhood_view<T, A>& mask, const T* bias, bool partial,
                            const gradient_target<T>& to, const auto& row) {
      const int count = static_cast<int>(source.count);
      const key_block<std::remove_cvref_t<decltype(source)>, T, A> keys(source, 0, count, buffers);
      std::fill_n(buffers.key_sums, count * buffers.key_pitch, T(0));
      std::fill_n(buffers.value_sums, count * buffers.value_pitch, T(0));
      bool finite = true;
      keys.for_keys(0, count, [&](auto rows, int some, int) {
        finite = finite && all_finite<T, A>(rows, some, keys_.features());
      });
      space.tile.absorb(keys, place(batch, head), finite, bias, T(0), partial, mask, chain_, nullptr);
      for (int j = 0; j < count; ++j) {
        add_rows<T, A>(buffers.key_sums + j * buffers.key_pitch, 0, static_cast<T>(rows_.scale),
                       to.dk + row(j) * to.dk_stride, 0, 1, keys_.features());
        add_rows<T, A>(buffers.value_sums + j * buffers.value_pitch, 0, T(1), to.dv + row(j) * to.dv_stride, 0, 1,
                       keys_.value_features());
      }
    };
    if (keys_.k_extra) {
      const auto k = keys_.k_extra[batch][head / heads_], v = keys_.v_extra[batch][head / heads_];
      neighborhood_block<T, A> none;
      for_blocks_of_extra<T, A>(k, v, [&](const auto& source, index_t first) {
        absorb(source, {tile, none}, nullptr, false, extra, [&](int j) { return first + j; });
      });
    }
    for_blocks_of(space, tile, batch, head, [&](const auto& block, const auto& source, const T* bias) {
      absorb(source, {tile, block}, bias, true, target, [&](int j) { return block.token[j]; });
    });
    space.tile.store(space.q, keys_.features(), static_cast<T>(rows_.scale));
    scatter_rows(tile, space.q, rows_.dq[batch][head]);
  }

  /// The gradient by a head's row of the table, in double: an entry is a sum over all tokens.
  void differentiate_table(workspace& space, index_t head) const noexcept {
    const index_t size = rows_.dbias.extent(1);
    load_table<T, A>(keys_.bias, head, space.table);
    std::fill_n(space.table_sums, size, 0.0);
    const index_t of_entry = cut_.groups() * cut_.tiles() * cut_.columns();
    for (index_t i = 0; i < keys_.k.extent(0) * of_entry; ++i) {
      const neighborhood_tile<T, A> tile(cut_, cut_.group(i / (cut_.tiles() * cut_.columns()) % cut_.groups()),
                                         cut_.corner(i % cut_.columns(), i / cut_.columns() % cut_.tiles()));
      if (tile.vectors() > 0) differentiate_table(space, tile, i / of_entry, head);
    }
    for (index_t i = 0; i < size; ++i) rows_.dbias(head, i) = S(static_cast<T>(space.table_sums[i]));
  }

  void differentiate_table(workspace& space, const neighborhood_tile<T, A>& tile, index_t batch,
                           index_t head) const noexcept {
    load_tile(space, tile, batch, head);
    const neighborhood_entries<T, A> entries(cut_, tile, true);
    for_blocks_of(space, tile, batch, head, [&](const auto& block, const auto& source, const T* bias) {
      const key_block<std::remove_cvref_t<decltype(source)>, T, A> keys(source, 0, block.count, space.buffers);
      const neighborhood_view<T, A> mask{tile, block};
      space.tile.template differentiate_logits<0>(
          keys, place(batch, head), bias, T(0), true, mask, chain_, [&](tile_part part) {
            for (int j = part.first; j < part.first + part.count; ++j) {
              const int key = entries.of_key(block, j);
              for (int lane = part.low * shape::width; lane < part.high * shape::width; ++lane) {
                const T gradient = space.buffers.gradients[j * shape::queries + lane];
                if (gradient != T(0)) space.table_sums[key - entries.of_lane(lane)] += double(gradient);
              }
            }
          });
    });
  }

  /// A piece of the keys of one kv head: the partial sums, in the order of the parts.
  void add_up(const T* slots, index_t number) const noexcept {
    const index_t of_batch = number / pieces_of_head, piece = number % pieces_of_head, keys = keys_.k.extent(2);
    const index_t batch = of_batch / keys_.k.extent(1), kv_head = of_batch % keys_.k.extent(1);
    for (index_t j = keys * piece / pieces_of_head; j < keys * (piece + 1) / pieces_of_head; ++j) {
      const T* const from = slots + of_batch * sums_of_head() + j * row_pitch_;
      sum_rows<T, A>(from, sums_of_slot(), slots_of_token(), same_type, &rows_.dk(batch, kv_head, j, 0),
                     keys_.features());
      sum_rows<T, A>(from + key_pitch_, sums_of_slot(), slots_of_token(), same_type, &rows_.dv(batch, kv_head, j, 0),
                     keys_.value_features());
    }
  }

  /// The keys that every query of a kv head sees: sums of all its tasks, in their order.
  void add_up_extra(const T* extra, index_t number) const noexcept {
    const index_t batch = number / keys_.k.extent(1), kv_head = number % keys_.k.extent(1);
    const index_t tasks = cut_.groups() * parts_, step = extra_keys() * row_pitch_;
    for (index_t j = 0; j < extra_keys(); ++j) {
      const T* const from = extra + number * tasks * step + j * row_pitch_;
      sum_rows<T, A>(from, step, tasks, false, &rows_.dk_extra(batch, kv_head, j, 0), keys_.features());
      sum_rows<T, A>(from + key_pitch_, step, tasks, false, &rows_.dv_extra(batch, kv_head, j, 0),
                     keys_.value_features());
    }
  }

  const neighborhood_gradient_rows<S>& rows_;
  const neighborhood_keys<S>& keys_;
  neighborhood_cut<T, A> cut_;
  score_chain<> chain_;
  index_t key_pitch_, row_pitch_;  // of sums: gradients of a key, then of its value
  index_t units_;
  index_t heads_ = 0;  // of a unit
  index_t tiles_ = 0;  // of a unit
  index_t parts_ = 1;
};

}  // namespace detail
HEED_ARCH_END
