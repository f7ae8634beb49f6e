/// Walks the keys of all streams, then their queries, where every query sees every key.
#pragma once

#include <heed/kernel/recurrence_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// An operator has what recurrence_run asks for, but for prepare(), attend(), advance() and call_ahead(), and
///     queries_of(stream)                 how many queries each head has
///     read(space, ready, stream, span, state)  outputs of some of them, from the state after the last key
/// The operations on every number do not depend on how many workers there are.
template <class Operator>
class pooled_run : public recurrence_run<Operator> {
  using base = recurrence_run<Operator>;
  using base::all, base::op_, base::part_of, base::split_, base::state, base::state_bytes, base::streams_, base::where_,
      base::workers_;

 public:
  pooled_run(const Operator& op, const executor_ref& where) noexcept : base(op, where) {}

  index_t bytes() const noexcept {
    return scratch_total(worker_bytes(), where_.concurrency) +
           (split_ ? streams_.count() : where_.concurrency) * state_bytes();
  }

  void run(const checker& check, scratch_view scratch) {
    if (streams_.count() == 0) return;
    const scratch_block memory(check, scratch, bytes());
    this->lend(memory.data(), worker_bytes());
    if (split_)
      run_parts();
    else
      run_streams();
  }

 private:
  using chunk_space = typename base::chunk_space;

  index_t worker_bytes() const noexcept { return this->template bytes_of<chunk_space>(); }

  void write(chunk_space& mine, const recurrence_stream& stream, index_range features,
             typename Operator::T* current) const {
    const chunk_cuts cuts{stream.tokens, op_.chunk()};
    for (index_t c = 0; c < cuts.count(); ++c)
      op_.write(mine.space, mine.ready, stream, cuts[c], features, current, current);
  }

  /// Outputs of chunks [first, last) of a stream's queries.
  void read(chunk_space& mine, const recurrence_stream& stream, index_t first, index_t last,
            const typename Operator::T* from) const {
    const chunk_cuts cuts{op_.queries_of(stream), op_.chunk()};
    for (index_t c = first; c < std::min(last, cuts.count()); ++c)
      op_.read(mine.space, mine.ready, stream, cuts[c], from);
  }

  void run_streams() {
    auto walk = [&](index_t number, index_t worker) {
      const recurrence_stream stream = streams_.at(number);
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      chunk_space mine(op_, cursor);
      op_.load_state(stream, state(worker));
      write(mine, stream, all(), state(worker));
      read(mine, stream, 0, chunk_cuts{op_.queries_of(stream), op_.chunk()}.count(), state(worker));
      op_.finish(stream, state(worker));
    };
    for_each_task(where_, streams_.count(), walk);
  }

  void run_parts() {
    index_t most = 0;
    for (index_t i = 0; i < streams_.count(); ++i) {
      op_.load_state(streams_.at(i), state(i));
      most = std::max(most, chunk_cuts{op_.queries_of(streams_.at(i)), op_.chunk()}.count());
    }
    const index_t each = (where_.concurrency + streams_.count() - 1) / streams_.count();
    const index_t size = this->part_size(each), parts = (op_.features() + size - 1) / size;
    auto write_part = [&](index_t number, index_t worker) {
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      chunk_space mine(op_, cursor);
      write(mine, streams_.at(number / parts), part_of(number % parts, size), state(number / parts));
    };
    for_each_task(where_, streams_.count() * parts, write_part);
    // A few pieces for each worker, so that all end at about the same time.
    const index_t pieces = std::min(most, 8 * each);
    auto read_piece = [&](index_t number, index_t worker) {
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      chunk_space mine(op_, cursor);
      const index_t i = number / pieces, piece = number % pieces;
      read(mine, streams_.at(i), piece * most / pieces, (piece + 1) * most / pieces, state(i));
    };
    for_each_task(where_, streams_.count() * pieces, read_piece);
    for (index_t i = 0; i < streams_.count(); ++i) op_.finish(streams_.at(i), state(i));
  }
};

}  // namespace detail
HEED_ARCH_END
