/// Runs a checked call, over several ranks, of a recurrence whose state is a matrix.
#pragma once

#include <heed/core/recurrence_options.hpp>
#include <heed/core/ring_recurrence_options.hpp>
#include <heed/kernel/relay_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a call over several ranks needs for one piece of its heads.
template <class S>
recurrence_options<S> piece_options(const ring_recurrence_options<S>& options) noexcept {
  recurrence_options<S> one{};
  one.scale = options.scale;
  one.chunk = options.chunk;
  one.executor = options.executor;
  return one;
}

/// Extents of a call on one rank; `states` of them for each kv head.
struct matrix_relay_extents {
  index_t batch, groups, states, d, e;

  index_t numbers() const noexcept { return states * d * e; }
};

/// Scratch of a call of which each piece needs bytes_of(piece).
template <class T, class BytesOf>
index_t matrix_relay_bytes(const matrix_relay_extents& x, int ranks, const BytesOf& bytes_of) noexcept {
  const relay_pieces pieces(x.batch, x.groups, ranks);
  index_t work = 0;
  for (index_t i = 0; i < pieces.count(); ++i) work = std::max(work, bytes_of(pieces[i]));
  scratch_cursor count(nullptr);
  count.take<T>(x.batch * x.groups * x.numbers());
  count.take<std::byte>(work);
  return scratch_total(count.used(), 1);
}

/// forward(piece, options) runs the operator on some heads.
template <class S, class Transport, class BytesOf, class Forward>
void run_matrix_relay(const checker& check, Transport& ranks, const matrix_relay_extents& x,
                      const ring_recurrence_options<S>& options, const BytesOf& bytes_of, const Forward& forward) {
  using T = accumulator_t<S>;
  const relay_pieces pieces(x.batch, x.groups, ranks.size());
  const scratch_block block(check, options.scratch, matrix_relay_bytes<T>(x, ranks.size(), bytes_of));
  scratch_cursor memory(block.data());
  T* const numbers = memory.take<T>(x.batch * x.groups * x.numbers());
  std::byte* const work = memory.take<std::byte>(0);
  const view<T, 4> states(numbers, {x.batch, x.groups * x.states, x.d, x.e});
  relay_states(ranks, pieces, numbers, x.groups, x.numbers(), options.tag, [&](const head_range& piece) {
    recurrence_options<S> one = piece_options(options);
    const view<T, 4> state = piece.of(states, x.states);
    one.initial_state = ranks.rank() == 0 ? piece.of(options.initial_state, x.states) : view<const T, 4>(state);
    one.final_state = state;
    one.scratch = {work, bytes_of(piece)};
    forward(piece, one);
    if (options.final_state) copy_rows<T>(state, piece.of(options.final_state, x.states));
  });
}

}  // namespace detail
HEED_ARCH_END
