/// Walks the keys of all streams, then their queries, where every query sees every key.
#pragma once

#include <heed/kernel/recurrence_streams.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// An operator has what recurrence_run asks for, besides attend(), and
///     queries_of(stream)                 how many queries each head has
///     read(space, stream, span, state)   outputs of some of them, from the state after the last key
/// The operations on every number do not depend on how many workers there are.
template <class Operator>
class pooled_run : public recurrence_run<Operator> {
  using base = recurrence_run<Operator>;
  using base::all, base::chunks_, base::op_, base::parts, base::range, base::split_, base::state, base::streams_,
      base::where_, base::worker_bytes, base::workers_;

 public:
  pooled_run(const Operator& op, const executor_ref& where) noexcept : base(op, where) {}

  void run(const checker& check, scratch_view scratch) {
    if (streams_.count() == 0) return;
    const scratch_block memory(check, scratch, this->bytes());
    this->lend(memory.data());
    if (split_)
      run_parts();
    else
      run_streams();
  }

 private:
  using workspace = typename Operator::workspace;

  void advance(workspace& space, const recurrence_stream& stream, index_range features,
               typename Operator::T* current) const {
    const chunk_cuts cuts{stream.tokens, op_.chunk()};
    for (index_t c = 0; c < cuts.count(); ++c) {
      op_.prepare(space, stream, cuts[c], features, current);
      op_.advance(space, current, current, features);
    }
  }

  void run_streams() {
    auto walk = [&](index_t number, index_t worker) {
      const recurrence_stream stream = streams_.at(number);
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      workspace space(op_, cursor);
      op_.load_state(stream, state(worker));
      advance(space, stream, all(), state(worker));
      const chunk_cuts cuts{op_.queries_of(stream), op_.chunk()};
      for (index_t c = 0; c < cuts.count(); ++c) op_.read(space, stream, cuts[c], state(worker));
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
    auto write = [&](index_t number, index_t worker) {
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      workspace space(op_, cursor);
      const index_t i = number / parts();
      advance(space, streams_.at(i), range(number % parts()), state(i));
    };
    for_each_task(where_, streams_.count() * parts(), write);
    auto read = [&](index_t number, index_t worker) {
      const recurrence_stream stream = streams_.at(number / most);
      const chunk_cuts cuts{op_.queries_of(stream), op_.chunk()};
      if (number % most >= cuts.count()) return;
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      workspace space(op_, cursor);
      op_.read(space, stream, cuts[number % most], state(number / most));
    };
    for_each_task(where_, streams_.count() * most, read);
    for (index_t i = 0; i < streams_.count(); ++i) op_.finish(streams_.at(i), state(i));
  }
};

}  // namespace detail
HEED_ARCH_END
