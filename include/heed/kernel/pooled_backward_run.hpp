/// Gradients of streams where every query sees every key: a state of all keys, then its gradient by all queries.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/recurrence_streams.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// An operator has T, streams(), chunk(), state_size(), workspace, load_state() and advance() as for
/// recurrence_backward_run, and
///     queries_of(stream)
///     load_gradient(stream, gradient)
///     differentiate_reads(space, stream, span, state, gradient)    some queries of each head
///     differentiate_writes(space, stream, span, state, gradient)   some keys
template <class Operator>
class pooled_backward_run {
 public:
  using T = typename Operator::T;

  pooled_backward_run(const Operator& op, const executor_ref& where) noexcept
      : op_(op), where_(where), streams_(op.streams()) {}

  index_t bytes() const noexcept { return scratch_total(worker_bytes(), where_.concurrency); }

  void run(const checker& check, scratch_view scratch) {
    if (streams_.count() == 0) return;
    const scratch_block memory(check, scratch, bytes());
    auto walk = [&](index_t number, index_t worker) {
      scratch_cursor cursor(memory.data() + worker * worker_bytes());
      differentiate(streams_.at(number), cursor);
    };
    for_each_task(where_, streams_.count(), walk);
  }

 private:
  index_t worker_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    typename Operator::workspace(op_, cursor);
    for (int i = 0; i < 2; ++i) cursor.take<T>(op_.state_size());
    return round_up(cursor.used(), cache_line);
  }

  void differentiate(const recurrence_stream& stream, scratch_cursor& cursor) const {
    typename Operator::workspace space(op_, cursor);
    T* const state = cursor.take<T>(op_.state_size());
    T* const gradient = cursor.take<T>(op_.state_size());
    const chunk_cuts keys{stream.tokens, op_.chunk()}, queries{op_.queries_of(stream), op_.chunk()};
    op_.load_state(stream, state);
    op_.load_gradient(stream, gradient);
    for (index_t c = 0; c < keys.count(); ++c) op_.advance(space, stream, keys[c], state, state);
    for (index_t c = 0; c < queries.count(); ++c) op_.differentiate_reads(space, stream, queries[c], state, gradient);
    for (index_t c = 0; c < keys.count(); ++c) op_.differentiate_writes(space, stream, keys[c], state, gradient);
  }

  const Operator& op_;
  executor_ref where_;
  stream_numbering streams_;
};

}  // namespace detail
HEED_ARCH_END
