/// Walks the chunks of all streams of an operator, by one worker a stream or by several.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/recurrence_streams.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// How many items of work are done, of those that workers take in an order in which none needs a later one. Whoever
/// waits does so for items that others have begun, so that any number of threads gets to the end.
class alignas(cache_line) work_progress {
 public:
  void add() noexcept {
    done_.fetch_add(1, std::memory_order_release);
    done_.notify_all();
  }
  /// Waits until `count` items are done.
  void wait(index_t count) const noexcept {
    // As a rule what is waited for is nearer than it takes to be woken.
    constexpr int looks = 1 << 15;
    for (int i = 0; i < looks; ++i)
      if (done_.load(std::memory_order_acquire) >= count) return;
    for (index_t done; (done = done_.load(std::memory_order_acquire)) < count;)
      done_.wait(done, std::memory_order_relaxed);
  }

 private:
  std::atomic<index_t> done_{0};
};

/// Walks the chunks of all streams of an operator, which has
///     T, streams(), chunk()                   its numbers, its streams, and tokens a chunk
///     state_size(), workspace                 numbers of a state, scratch of a worker
///     prepared                                what is made of a chunk before its products
///     features()                              the features that a state may be cut along
///     load_state(stream, state), finish(stream, state)
///     prepare(ready, stream, span, state)     what the next two take, from the state before the chunk
///     attend(space, ready, stream, span, state)      outputs of the chunk, from the state before it
///     advance(space, ready, from, to)                the state after it
///     write(space, ready, stream, span, features, from, to)    some features of that state, with nothing prepared
///     call_ahead(space, stream, first, rows)  has the products that follow call rows of the chunk at token `first`
///
/// Where there are fewer streams than workers, several share one, a round of chunks at a time. A round starts when the
/// states before it are there: its worker makes the states of all its chunks, then, while others go on from there,
/// their outputs, from what was prepared for the states. More workers than such chains can feed make states in parts,
/// and outputs a round later. The operations on every number are the same in all cases.
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
    const index_t records = split_ ? streams_.count() * kept() : where_.concurrency;
    return scratch_total(worker_bytes(), where_.concurrency) + records * state_bytes();
  }

  void run(const checker& check, scratch_view scratch) {
    if (streams_.count() == 0) return;
    const scratch_block memory(check, scratch, bytes());
    lend(memory.data(), worker_bytes());
    if (split_)
      run_shared();
    else
      run_streams();
  }

 protected:
  struct chunk_space {
    chunk_space(const Operator& op, scratch_cursor& memory) noexcept : space(op, memory), ready(op, memory) {}
    typename Operator::workspace space;
    typename Operator::prepared ready;
  };

  void lend(std::byte* memory, index_t bytes_of_worker) noexcept {
    workers_ = memory;
    states_ = memory + bytes_of_worker * where_.concurrency;
  }

  index_range all() const noexcept { return {0, op_.features()}; }
  /// States may be cut in parts, of whole vectors of features: at most `wanted`.
  index_t part_size(index_t wanted) const noexcept {
    return round_up(std::max<index_t>(1, (op_.features() + wanted - 1) / wanted), 16);
  }
  index_range part_of(index_t part, index_t size) const noexcept {
    return {part * size, std::min(op_.features(), (part + 1) * size)};
  }
  template <class Space>
  index_t bytes_of() const noexcept {
    scratch_cursor cursor(nullptr);
    Space(op_, cursor);
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
  using workspace = typename Operator::workspace;
  using prepared = typename Operator::prepared;

  index_t worker_bytes() const noexcept {
    return split_ && parts() == 1 ? bytes_of<round_space>() : bytes_of<chunk_space>();
  }

  void run_streams() {
    auto walk = [&](index_t number, index_t worker) {
      const recurrence_stream stream = streams_.at(number);
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      chunk_space mine(op_, cursor);
      T* const current = state(worker);
      op_.load_state(stream, current);
      const chunk_cuts cuts{stream.tokens, op_.chunk()};
      for (index_t c = 0; c < cuts.count(); ++c) {
        op_.prepare(mine.ready, stream, cuts[c], current);
        op_.call_ahead(mine.space, stream, cuts[c + 1].first, rows_ahead::all);
        op_.attend(mine.space, mine.ready, stream, cuts[c], current);
        op_.advance(mine.space, mine.ready, current, current);
      }
      op_.finish(stream, current);
    };
    for_each_task(where_, streams_.count(), walk);
  }

  /// States take about two fifths of the work, so that fewer parts than workers are enough. Each part walks over keys
  /// and values anew.
  index_t part_size() const noexcept {
    const index_t states = 5 * streams_.count();
    return part_size(std::max<index_t>(1, (2 * where_.concurrency + states - 1) / states));
  }
  index_t parts() const noexcept { return (op_.features() + part_size() - 1) / part_size(); }

  /// Chunks of a round: their states and what is prepared for them should stay in a second-level cache.
  static constexpr index_t round = 4;
  /// Rounds whose states are kept: more than are worked on at a time, but for slow workers.
  static constexpr index_t rounds_kept = 4;
  index_t rounds() const noexcept { return (chunks_ + round - 1) / round; }
  index_t kept() const noexcept { return std::min(rounds_kept * round, chunks_) + 1; }
  T* state_before(index_t stream, index_t chunk) const noexcept { return state(stream * kept() + chunk % kept()); }

  struct round_space {
    round_space(const Operator& op, scratch_cursor& memory) noexcept
        : round_space(op, memory, std::make_index_sequence<round>{}) {}
    workspace space;
    std::array<prepared, round> ready;

   private:
    template <std::size_t... I>
    round_space(const Operator& op, scratch_cursor& memory, std::index_sequence<I...>) noexcept
        : space(op, memory), ready{((void)I, prepared(op, memory))...} {}
  };

  /// The chunks of a stream in a round.
  struct stream_round {
    recurrence_stream stream;
    chunk_cuts cuts;
    index_t first, last;
  };
  stream_round chunks_of(index_t number, index_t r) const noexcept {
    const recurrence_stream stream = streams_.at(number);
    const chunk_cuts cuts{stream.tokens, op_.chunk()};
    return {stream, cuts, r * round, std::min((r + 1) * round, cuts.count())};
  }

  /// States of a round, then its outputs. Calls written() in between.
  template <class Written>
  void work_on_round(round_space& mine, index_t number, index_t r, const Written& written) const {
    const auto [stream, cuts, first, last] = chunks_of(number, r);
    for (index_t c = first; c < last; ++c) {
      prepared& ready = mine.ready[c - first];
      op_.prepare(ready, stream, cuts[c], state_before(number, c));
      if (c + 1 < last)
        op_.call_ahead(mine.space, stream, cuts[c + 1].first, rows_ahead::written);
      else
        op_.call_ahead(mine.space, stream, cuts[first].first, rows_ahead::read);
      op_.advance(mine.space, ready, state_before(number, c), state_before(number, c + 1));
    }
    written();
    // The round that this worker takes next, if all are equally fast.
    const index_t next = first + round * (where_.concurrency / streams_.count());
    for (index_t c = first; c < last; ++c) {
      if (c + 1 < last)
        op_.call_ahead(mine.space, stream, cuts[c + 1].first, rows_ahead::read);
      else
        op_.call_ahead(mine.space, stream, cuts[next].first, rows_ahead::written);
      op_.attend(mine.space, mine.ready[c - first], stream, cuts[c], state_before(number, c));
    }
  }

  /// A part of the states of a round.
  void write_part(chunk_space& mine, index_t number, index_t part, index_t r) const {
    const auto [stream, cuts, first, last] = chunks_of(number, r);
    for (index_t c = first; c < last; ++c)
      op_.write(mine.space, mine.ready, stream, cuts[c], part_of(part, part_size()), state_before(number, c),
                state_before(number, c + 1));
  }
  /// The outputs of some chunks of a round.
  void read_part(chunk_space& mine, index_t number, index_t part, index_t r) const {
    const auto [stream, cuts, first, last] = chunks_of(number, r);
    for (index_t c = first + part; c < last; c += parts()) {
      op_.prepare(mine.ready, stream, cuts[c], state_before(number, c));
      op_.call_ahead(mine.space, stream, cuts[c + parts()].first, rows_ahead::read);
      op_.attend(mine.space, mine.ready, stream, cuts[c], state_before(number, c));
    }
  }

  /// Calls work(scratch of a worker, item) for all items, which workers take in their order, `most` at a time.
  template <class Space, class Work>
  void for_items(index_t items, index_t most, const Work& work) {
    alignas(cache_line) std::atomic<index_t> next{0};
    auto take_items = [&](index_t, index_t worker) {
      scratch_cursor cursor(workers_ + worker * worker_bytes());
      Space mine(op_, cursor);
      for (index_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) work(mine, item);
    };
    for_each_task(where_, std::min({where_.concurrency, items, most}), take_items);
  }

  /// Items: a round of each stream, then the next round.
  void run_rounds() {
    const index_t streams = streams_.count();
    work_progress written, read[rounds_kept];
    for_items<round_space>(rounds() * streams, rounds_kept * streams, [&](round_space& mine, index_t item) {
      const index_t r = item / streams;
      written.wait(r * streams);
      // The states of this round lie where those of a former one were.
      read[r % rounds_kept].wait(r / rounds_kept * streams);
      work_on_round(mine, item % streams, r, [&] { written.add(); });
      read[r % rounds_kept].add();
    });
  }

  /// Items: the parts of a round of each stream, each with a part of the outputs of the round before, then the next
  /// round.
  void run_parts() {
    const index_t of_round = streams_.count() * parts();
    work_progress written, read[rounds_kept];
    for_items<chunk_space>((rounds() + 1) * of_round, rounds_kept * of_round, [&](chunk_space& mine, index_t item) {
      const index_t r = item / of_round, number = item % of_round / parts(), part = item % parts();
      written.wait(r * of_round);
      read[r % rounds_kept].wait(r / rounds_kept * of_round);
      write_part(mine, number, part, r);
      written.add();
      if (r == 0) return;
      read_part(mine, number, part, r - 1);
      read[(r - 1) % rounds_kept].add();
    });
  }

  void run_shared() {
    for (index_t i = 0; i < streams_.count(); ++i) op_.load_state(streams_.at(i), state_before(i, 0));
    if (parts() == 1)
      run_rounds();
    else
      run_parts();
    for (index_t i = 0; i < streams_.count(); ++i) {
      const recurrence_stream stream = streams_.at(i);
      op_.finish(stream, state_before(i, chunk_cuts{stream.tokens, op_.chunk()}.count()));
    }
  }
};

}  // namespace detail
HEED_ARCH_END
