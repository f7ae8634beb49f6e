/// Walks the chunks of a recurrence back from the last, with the states that they started from.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/recurrence_streams.hpp>

#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// States are recomputed, a round of chunks at a time, from those that the rounds started from. An operator has
///     T, streams(), chunk(), state_size(), workspace     as for recurrence_run
///     load_state(stream, state), load_gradient(stream, gradient), finish(stream, gradient)
///     advance(space, stream, span, from, to)             the state after a chunk
///     retreat(space, stream, span, before, after, later, earlier)
///         gradients of a chunk, from the states around it and the gradient by the later one; makes that by the earlier
template <class Operator>
class recurrence_backward_run {
 public:
  using T = typename Operator::T;

  recurrence_backward_run(const Operator& op, const executor_ref& where) noexcept
      : op_(op), where_(where), streams_(op.streams()) {
    for (index_t s = 0; s < streams_.sequences && streams_.states > 0; ++s)
      chunks_ = std::max(chunks_, chunk_cuts{streams_.at(s * streams_.states).tokens, op.chunk()}.count());
  }

  index_t bytes() const noexcept { return scratch_total(worker_bytes(), where_.concurrency); }

  void run(const checker& check, scratch_view scratch) {
    if (streams_.count() == 0) return;
    const scratch_block memory(check, scratch, bytes());
    // Streams that share a kv head follow each other: they add to the same gradients.
    const index_t sharing = streams_.states / streams_.kv_heads;
    auto walk = [&](index_t number, index_t worker) {
      for (index_t i = 0; i < sharing; ++i) {
        scratch_cursor cursor(memory.data() + worker * worker_bytes());
        walk_back(streams_.at(number * sharing + i), cursor);
      }
    };
    for_each_task(where_, streams_.count() / sharing, walk);
  }

 private:
  /// Chunks whose states are kept at a time.
  static constexpr index_t round = 64;

  index_t rounds() const noexcept { return (chunks_ + round - 1) / round; }
  index_t kept() const noexcept { return std::min(round, chunks_) + 1; }
  index_t worker_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    typename Operator::workspace(op_, cursor);
    for (index_t i = 0; i < rounds() + kept() + 2; ++i) cursor.take<T>(op_.state_size());
    return round_up(cursor.used(), cache_line);
  }

  void walk_back(const recurrence_stream& stream, scratch_cursor& cursor) const {
    typename Operator::workspace space(op_, cursor);
    const index_t size = round_up(op_.state_size() * index_t(sizeof(T)), cache_line) / index_t(sizeof(T));
    T* const starts = cursor.take<T>(rounds() * size);
    T* const states = cursor.take<T>(kept() * size);
    T* later = cursor.take<T>(size);
    T* earlier = cursor.take<T>(size);
    const chunk_cuts cuts{stream.tokens, op_.chunk()};
    const index_t last_round = cuts.count() == 0 ? -1 : (cuts.count() - 1) / round;

    op_.load_state(stream, states);
    for (index_t r = 0; r < last_round; ++r) {
      std::copy_n(states, size, starts + r * size);
      for (index_t c = r * round; c < (r + 1) * round; ++c) op_.advance(space, stream, cuts[c], states, states);
    }
    op_.load_gradient(stream, later);
    for (index_t r = last_round; r >= 0; --r) {
      if (r < last_round) std::copy_n(starts + r * size, size, states);
      const index_t first = r * round, last = std::min(cuts.count(), first + round);
      for (index_t c = first; c < last; ++c)
        op_.advance(space, stream, cuts[c], states + (c - first) * size, states + (c - first + 1) * size);
      for (index_t c = last - 1; c >= first; --c) {
        const T* const before = states + (c - first) * size;
        op_.retreat(space, stream, cuts[c], before, before + size, later, earlier);
        std::swap(later, earlier);
      }
    }
    op_.finish(stream, later);
  }

  const Operator& op_;
  executor_ref where_;
  stream_numbering streams_;
  index_t chunks_ = 0;
};

}  // namespace detail
HEED_ARCH_END
