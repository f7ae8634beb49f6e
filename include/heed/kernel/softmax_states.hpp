/// States of the online softmax that outlive a call: keys come in several turns, and queries go on where they were.
#pragma once

#include <heed/kernel/softmax_run.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// What a tile of queries knows between two turns (softmax_tile), in base 2. Bit for bit: turns are as good as one walk.
template <class T>
struct softmax_states {
  view<T, 4> outputs;     // [B,H,N,E]: sum of 2^(z - reference) v
  view<T, 3> references;  // [B,H,N]; -inf: nothing was visible
  view<T, 3> sums;        // [B,H,N]: sum of 2^(z - reference)
};

/// Memory for the states of a call and for its workers. Outputs are where the call's are, if their type allows.
template <class S, class A>
struct softmax_state_memory {
  using T = accumulator_t<S>;
  static constexpr bool in_place = std::is_same_v<S, T>;

  softmax_state_memory(scratch_cursor& memory, const view<const S, 4>& q, index_t e, bool bias,
                       const executor_ref& where) noexcept {
    const index_t rows = q.extent(0) * q.extent(1) * q.extent(2);
    outputs = in_place ? nullptr : memory.take<T>(rows * e);
    references = memory.take<T>(rows);
    sums = memory.take<T>(rows);
    const index_t share = round_up(softmax_worker_bytes<S, A>(q.extent(3), e, !in_place, bias, false), cache_line);
    work.bytes = scratch_total(share, where.concurrency);
    work.data = memory.take<std::byte>(work.bytes);
  }

  softmax_states<T> states(const view<S, 4>& out) const noexcept {
    const index_t b = out.extent(0), h = out.extent(1), n = out.extent(2);
    softmax_states<T> all{{outputs, {b, h, n, out.extent(3)}}, {references, {b, h, n}}, {sums, {b, h, n}}};
    if constexpr (in_place) all.outputs = out;
    return all;
  }

  T* outputs;
  T* references;
  T* sums;
  scratch_view work{nullptr, 0};
};

/// Queries whose tiles start from states and leave states. `out` and `lse` are what finish_softmax writes.
template <class S>
struct softmax_state_rows : softmax_rows<S> {
  using T = accumulator_t<S>;
  static constexpr bool resumes = true;

  softmax_states<T> states;

  template <class Tile>
  void open(Tile& tile, tile_care care, index_t b, index_t h, index_t row) const noexcept {
    tile.resume(care, &states.outputs(b, h, row, 0), states.outputs.stride(2), &states.references(b, h, row),
                &states.sums(b, h, row));
  }
  template <class Tile>
  void close(Tile& tile, index_t b, index_t h, index_t row) const noexcept {
    tile.store_state(&states.outputs(b, h, row, 0), states.outputs.stride(2), &states.references(b, h, row),
                     &states.sums(b, h, row));
  }
};

/// States of queries that have seen nothing.
template <class T>
void clear_states(const softmax_states<T>& states, const executor_ref& where) {
  auto task = [&](index_t number, index_t) {
    const index_t b = number / states.sums.extent(1), h = number % states.sums.extent(1);
    for (index_t i = 0; i < states.sums.extent(2); ++i) {
      std::fill_n(&states.outputs(b, h, i, 0), states.outputs.extent(3), T(0));
      states.references(b, h, i) = -std::numeric_limits<T>::infinity();
      states.sums(b, h, i) = T(0);
    }
  };
  for_each_task(where, states.sums.extent(0) * states.sums.extent(1), task);
}

/// From states to `out` and `lse`, with the sink of the call.
template <class A, class S>
void finish_softmax(const checker& check, const softmax_state_rows<S>& rows, scratch_view scratch,
                    const executor_ref& where) {
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;
  const index_t features = rows.q.extent(3), value_features = rows.out.extent(3);
  const task_numbering tasks(rows.q.extent(0), rows.q.extent(1), rows.q.extent(2), {}, shape::queries);
  if (tasks.count() == 0) return;
  const index_t share = round_up(softmax_worker_bytes<S, A>(features, value_features, false, false, false), cache_line);
  const scratch_block memory(check, scratch, scratch_total(share, where.concurrency));
  auto task = [&](index_t number, index_t worker) {
    const query_rows at = tasks.at(number);
    scratch_cursor cursor(memory.data() + worker * share);
    softmax_workspace<S, A> space(cursor, features, value_features, false, false, false);
    auto& tile = space.tiles[0];
    tile.hold(at.count);
    rows.open(tile, tile_care::none, at.sequence, at.head, at.first);
    if (rows.sink) tile.absorb_sink(rows.sink[at.head]);
    rows.softmax_rows<S>::close(tile, at.sequence, at.head, at.first);
  };
  for_each_task(where, tasks.count(), task);
}

}  // namespace detail
HEED_ARCH_END
