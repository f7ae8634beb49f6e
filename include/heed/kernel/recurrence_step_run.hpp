/// Runs a checked call that takes a few tokens into states in place, one after the other.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/linear_chunks.hpp>
#include <heed/kernel/slot_chunks.hpp>
#include <heed/kernel/state_step.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Runs op.step(space, stream) for every stream of an operator with `workspace`, streams() and T.
template <class Operator>
class recurrence_step_run {
 public:
  recurrence_step_run(const Operator& op, const executor_ref& where) noexcept
      : op_(op), where_(where), streams_(op.streams()) {}

  index_t bytes() const noexcept { return scratch_total(worker_bytes(), where_.concurrency); }

  void run(const checker& check, scratch_view scratch) {
    if (streams_.count() == 0) return;
    const scratch_block memory(check, scratch, bytes());
    auto step = [&](index_t number, index_t worker) {
      scratch_cursor cursor(memory.data() + worker * worker_bytes());
      typename Operator::workspace space(op_, cursor);
      op_.step(space, streams_.at(number));
    };
    for_each_task(where_, streams_.count(), step);
  }

 private:
  index_t worker_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    typename Operator::workspace(op_, cursor);
    return round_up(cursor.used(), cache_line);
  }

  const Operator& op_;
  executor_ref where_;
  stream_numbering streams_;
};

/// A row of scratch, whole vectors long, from a row of storage elements.
template <class T, class A, class S>
HEED_INLINE void load_row(const S* from, index_t features, T* to, pack<T, A> factor = pack<T, A>(T(1))) noexcept {
  for_vectors<T, A>(features,
                    [&](index_t i, int some) { (load_some<T, A>(from + i, some) * factor).store_aligned(to + i); });
}
template <class T, class A>
HEED_INLINE void load_gates(const T* log_gates, index_t features, T* to) noexcept {
  for_vectors<T, A>(features,
                    [&](index_t i, int some) { gate_of(load_some<T, A>(log_gates + i, some)).store_aligned(to + i); });
}
template <class T, class A, class S>
HEED_INLINE void store_row(const T* from, index_t features, S* to) noexcept {
  for_vectors<T, A>(features,
                    [&](index_t i, int some) { store_some(to + i, pack<T, A>::load_aligned(from + i), some); });
}

/// Tokens of the recurrence R_t = a_t R_{t-1} + k_t v_t^T, o_t = scale R_t^T q_t.
template <class A, class S, gate_kind Kind>
class linear_steps {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  linear_steps(const linear_call<S>& call, const view<T, 4>& state) noexcept : call_(call), state_(state) {}

  struct workspace {
    workspace(const linear_steps& op, scratch_cursor& memory) noexcept
        : key(take_rows<T>(memory, 1, op.call_.features()).data),
          gate(take_rows<T>(memory, 1, op.call_.features()).data),
          value(take_rows<T>(memory, 1, op.call_.value_features()).data),
          reads(take_rows<T>(memory, op.heads(), op.call_.features())),
          sums(take_rows<T>(memory, op.heads(), op.call_.value_features())) {}
    T *key, *gate, *value;
    row_span<T> reads, sums;
  };

  stream_numbering streams() const noexcept { return call_.streams(); }

  void step(workspace& space, const recurrence_stream& stream) const noexcept {
    const index_t features = call_.features(), value_features = call_.value_features();
    const P scale(static_cast<T>(call_.scale));
    const view<T, 2> state = state_[stream.sequence][stream.state_head];
    for (index_t t = 0; t < stream.tokens; ++t) {
      load_row<T, A>(&call_.k(stream.batch, stream.kv_head, t, 0), features, space.key);
      const S* const value = &call_.v(stream.batch, call_.value_head(stream), t, 0);
      load_row<T, A>(value, value_features, space.value, P(call_.step(stream, t)));
      for (index_t h = 0; h < stream.heads; ++h)
        load_row<T, A>(&call_.q(stream.batch, call_.query_head(stream.first_head + h), t, 0), features, space.reads[h],
                       scale);
      if constexpr (Kind == gate_kind::feature)
        load_gates<T, A>(&call_.feature_gates(stream.batch, stream.kv_head, t, 0), features, space.gate);
      if constexpr (Kind == gate_kind::token) {
        const P gate = gate_of(P(call_.token_log_gate(stream, t)));
        for (index_t i = 0; i < features; i += P::lanes) gate.store_aligned(space.gate + i);
      }
      constexpr gate_side side = Kind == gate_kind::none ? gate_side::none : gate_side::rows;
      write_and_read<side, T, A>(state.data(), state.stride(0), features, value_features,
                                 {space.key, space.value, Kind == gate_kind::none ? nullptr : space.gate, nullptr},
                                 stream.heads, space.reads.data, space.reads.stride, space.sums.data,
                                 space.sums.stride);
      if (call_.skips) {
        const P skip(call_.skips[stream.state_head]);
        for_vectors<T, A>(value_features, [&](index_t i, int some) {
          fma(skip, load_some<T, A>(value + i, some), P::load_aligned(space.sums[0] + i))
              .store_aligned(space.sums[0] + i);
        });
      }
      for (index_t h = 0; h < stream.heads; ++h)
        store_row<T, A>(space.sums[h], value_features, &call_.out(stream.batch, stream.first_head + h, t, 0));
    }
  }

 private:
  index_t heads() const noexcept { return streams().states == 0 ? 0 : call_.heads() / streams().states; }

  const linear_call<S>& call_;
  view<T, 4> state_;
};

/// Tokens of Gated Slot Attention. Controlled writes have a third state, z [B,G,slots].
template <class A, class S, slot_writes Writes = slot_writes::given>
class slot_steps {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  slot_steps(const slot_call<S>& call, const view<T, 4>& keys, const view<T, 4>& values,
             const view<T, 3>& sums = {}) noexcept
      : call_(call), keys_(keys), values_(values), sums_(sums) {}

  struct workspace {
    workspace(const slot_steps& op, scratch_cursor& memory) noexcept
        : key(take_rows<T>(memory, 1, op.call_.features()).data),
          value(take_rows<T>(memory, 1, op.call_.value_features()).data),
          strength(take_rows<T>(memory, 1, op.call_.slots()).data),
          gate(take_rows<T>(memory, 1, op.call_.slots()).data),
          queries(take_rows<T>(memory, op.heads(), op.call_.features())),
          reads(take_rows<T>(memory, op.heads(), op.call_.slots())),
          sums(take_rows<T>(memory, op.heads(), op.call_.value_features())) {}
    T *key, *value, *strength, *gate;
    row_span<T> queries, reads, sums;
  };

  stream_numbering streams() const noexcept { return call_.streams(); }

  void step(workspace& space, const recurrence_stream& stream) const noexcept {
    const index_t features = call_.features(), slots = call_.slots(), value_features = call_.value_features();
    const P scale(static_cast<T>(call_.scale));
    const view<T, 2> keys = keys_[stream.sequence][stream.state_head];
    const view<T, 2> values = values_[stream.sequence][stream.state_head];
    for (index_t t = 0; t < stream.tokens; ++t) {
      load_row<T, A>(&call_.k(stream.batch, stream.kv_head, t, 0), features, space.key);
      load_row<T, A>(&call_.v(stream.batch, stream.kv_head, t, 0), value_features, space.value);
      prepare_write(space, stream, t);
      for (index_t h = 0; h < stream.heads; ++h)
        load_row<T, A>(&call_.q(stream.batch, stream.first_head + h, t, 0), features, space.queries[h], scale);
      write_and_read<gate_side::columns, T, A>(
          keys.data(), keys.stride(0), features, slots, {space.key, space.strength, nullptr, space.gate}, stream.heads,
          space.queries.data, space.queries.stride, space.reads.data, space.reads.stride);
      softmax_over_slots<T, A>(space.reads, stream.heads, slots);
      write_and_read<gate_side::rows, T, A>(values.data(), values.stride(0), slots, value_features,
                                            {space.strength, space.value, space.gate, nullptr}, stream.heads,
                                            space.reads.data, space.reads.stride, space.sums.data, space.sums.stride);
      for (index_t h = 0; h < stream.heads; ++h)
        store_row<T, A>(space.sums[h], value_features, &call_.out(stream.batch, stream.first_head + h, t, 0));
    }
  }

 private:
  index_t heads() const noexcept { return streams().states == 0 ? 0 : call_.q.extent(1) / streams().states; }

  void prepare_write(workspace& space, const recurrence_stream& stream, index_t t) const noexcept {
    const T* const strengths = &call_.strengths(stream.batch, stream.kv_head, t, 0);
    if constexpr (Writes == slot_writes::controlled) {
      T* const sums = &sums_(stream.sequence, stream.state_head, 0);
      for_vectors<T, A>(call_.slots(), [&](index_t i, int some) {
        const slot_control<T, A> write(load_some<T, A>(strengths + i, some), load_some<T, A>(sums + i, some));
        write.strength.store_aligned(space.strength + i);
        write.gate.store_aligned(space.gate + i);
        store_some(sums + i, write.sum, some);
      });
    } else {
      load_row<T, A>(strengths, call_.slots(), space.strength);
      load_gates<T, A>(&call_.gates(stream.batch, stream.kv_head, t, 0), call_.slots(), space.gate);
    }
  }

  const slot_call<S>& call_;
  view<T, 4> keys_, values_;
  view<T, 3> sums_;
};

}  // namespace detail
HEED_ARCH_END
