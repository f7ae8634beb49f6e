/// The independent recurrences of a call, and the order in which their chunks are worked on.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/kernel/chunk_products.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// One recurrence: the tokens of one sequence that write to one state, and the query heads that read it.
struct recurrence_stream {
  index_t sequence, batch;
  index_t first_token, tokens;
  index_t state_head, kv_head, first_head, heads;
  /// Whether no stream before it writes with the same keys and values: states may belong to query heads.
  bool first_of_kv_head;
};

/// Where a token's row of a tensor [B,H,N,..] is, for tokens in the order of a stream.
template <class S>
row_span<S> stream_rows(const view<S, 4>& tensor, const recurrence_stream& stream, index_t head, index_t first,
                        bool reverse) noexcept {
  const index_t stride = tensor.stride(2);
  const index_t row = stream.first_token + (reverse ? stream.tokens - 1 - first : first);
  return {tensor.data() + stream.batch * tensor.stride(0) + head * tensor.stride(1) + row * stride,
          reverse ? -stride : stride};
}

/// Numbers the streams of a call. States belong to kv heads, or to query heads.
struct stream_numbering {
  index_t sequences, heads, kv_heads, states, tokens;
  sequence_offsets cu;

  index_t count() const noexcept { return sequences * states; }
  recurrence_stream at(index_t number) const noexcept {
    const index_t sequence = number / states, state = number % states;
    const index_t heads_of_state = heads / states, states_of_kv_head = states / kv_heads;
    recurrence_stream s{};
    s.sequence = s.batch = sequence;
    s.tokens = tokens;
    s.state_head = state;
    s.kv_head = state / states_of_kv_head;
    s.first_head = state * heads_of_state;
    s.heads = heads_of_state;
    s.first_of_kv_head = state % states_of_kv_head == 0;
    if (cu) {
      s.batch = 0;
      s.first_token = cu.at(sequence);
      s.tokens = cu.at(sequence + 1) - s.first_token;
    }
    return s;
  }
};

/// Tokens of one stream that are worked on together, counted in the stream's own order.
struct chunk_span {
  index_t first, count;
};

struct chunk_cuts {
  index_t tokens, size;

  index_t count() const noexcept { return (tokens + size - 1) / size; }
  chunk_span operator[](index_t number) const noexcept {
    return {number * size, std::min(size, tokens - number * size)};
  }
};

/// Walks the chunks of all streams of an operator, which has
///     T, streams(), chunk()                   its numbers, its streams, and tokens a chunk
///     state_size(), workspace                 numbers of a state, scratch of a worker
///     gated_features()                        the features that the state may be cut along
///     load_state(stream, state), finish(stream, state)
///     prepare(space, stream, span, features, state)  what advancing these features takes, from the state before
///     advance(space, from, to, features)
///     attend(space, stream, span, state)      outputs of the chunk after prepare of all features, from the state
///     before
/// Where there are fewer streams than workers, states go ahead, in parts, and outputs follow, all chunks of a round at
/// once. The operations on every number are the same either way.
template <class Operator>
class recurrence_run {
 public:
  using T = typename Operator::T;

  recurrence_run(const Operator& op, const executor_ref& where) noexcept
      : op_(op), where_(where), streams_(op.streams()), split_(streams_.count() < where.concurrency) {
    index_t longest = 0;
    for (index_t s = 0; s < streams_.sequences; ++s)
      if (streams_.states > 0) longest = std::max(longest, streams_.at(s * streams_.states).tokens);
    chunks_ = chunk_cuts{longest, op.chunk()}.count();
  }

  index_t bytes() const noexcept {
    const index_t records = split_ ? streams_.count() * (round() + 1) : where_.concurrency;
    return scratch_total(worker_bytes(), where_.concurrency) + records * state_bytes();
  }

  void run(const checker& check, scratch_view scratch) {
    if (streams_.count() == 0) return;
    const scratch_block memory(check, scratch, bytes());
    lend(memory.data());
    if (split_)
      run_rounds();
    else
      run_streams();
  }

 protected:
  void lend(std::byte* memory) noexcept {
    workers_ = memory;
    states_ = memory + worker_bytes() * where_.concurrency;
  }

  index_range all() const noexcept { return {0, op_.gated_features()}; }
  /// Features of a part of a state: what its keys take may be made for each part anew.
  index_t part_size() const noexcept { return round_up(op_.gated_features() / 32 + 1, 16); }
  index_t parts() const noexcept { return (op_.gated_features() + part_size() - 1) / part_size(); }
  index_range range(index_t part) const noexcept {
    return {part * part_size(), std::min(op_.gated_features(), (part + 1) * part_size())};
  }
  index_t round() const noexcept { return std::min<index_t>(64, chunks_); }
  index_t worker_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    typename Operator::workspace(op_, cursor);
    return round_up(cursor.used(), cache_line);
  }
  index_t state_bytes() const noexcept { return round_up(op_.state_size() * index_t(sizeof(T)), cache_line); }
  T* state(index_t number) const noexcept { return reinterpret_cast<T*>(states_ + number * state_bytes()); }

  const Operator& op_;
  executor_ref where_;
  stream_numbering streams_;
  bool split_;
  index_t chunks_;
  std::byte* workers_ = nullptr;
  std::byte* states_ = nullptr;

 private:
  void run_streams() {
    auto walk = [&](index_t number, index_t worker) {
      const recurrence_stream stream = streams_.at(number);
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      typename Operator::workspace space(op_, cursor);
      T* const current = state(worker);
      op_.load_state(stream, current);
      const chunk_cuts cuts{stream.tokens, op_.chunk()};
      for (index_t c = 0; c < cuts.count(); ++c) {
        op_.prepare(space, stream, cuts[c], all(), current);
        op_.attend(space, stream, cuts[c], current);
        op_.advance(space, current, current, all());
      }
      op_.finish(stream, current);
    };
    for_each_task(where_, streams_.count(), walk);
  }

  void run_rounds() {
    const index_t records = round() + 1;
    for (index_t i = 0; i < streams_.count(); ++i) op_.load_state(streams_.at(i), state(i * records));
    for (index_t first = 0; first < chunks_; first += round()) {
      auto go_ahead = [&](index_t number, index_t worker) {
        const index_t i = number / parts(), part = number % parts();
        const recurrence_stream stream = streams_.at(i);
        scratch_cursor cursor(workers_ + worker * worker_bytes());
        typename Operator::workspace space(op_, cursor);
        const chunk_cuts cuts{stream.tokens, op_.chunk()};
        for (index_t c = 0; c < round() && first + c < cuts.count(); ++c) {
          op_.prepare(space, stream, cuts[first + c], range(part), state(i * records + c));
          op_.advance(space, state(i * records + c), state(i * records + c + 1), range(part));
        }
      };
      for_each_task(where_, streams_.count() * parts(), go_ahead);
      auto follow = [&](index_t number, index_t worker) {
        const index_t i = number / round(), c = number % round();
        const recurrence_stream stream = streams_.at(i);
        const chunk_cuts cuts{stream.tokens, op_.chunk()};
        if (first + c >= cuts.count()) return;
        scratch_cursor cursor(workers_ + worker * worker_bytes());
        typename Operator::workspace space(op_, cursor);
        op_.prepare(space, stream, cuts[first + c], all(), state(i * records + c));
        op_.attend(space, stream, cuts[first + c], state(i * records + c));
      };
      for_each_task(where_, streams_.count() * round(), follow);
      for (index_t i = 0; i < streams_.count(); ++i) {
        const index_t chunks = chunk_cuts{streams_.at(i).tokens, op_.chunk()}.count();
        const index_t done = std::clamp<index_t>(chunks - first, 0, round());
        if (done > 0) std::copy_n(state(i * records + done), op_.state_size(), state(i * records));
      }
    }
    for (index_t i = 0; i < streams_.count(); ++i) op_.finish(streams_.at(i), state(i * records));
  }
};

}  // namespace detail
HEED_ARCH_END
