/// Forward pass of Gated Slot Attention, chunk by chunk: two recurrences whose states depend on keys and values alone,
/// read one after the other with a softmax over the slots between.
#pragma once

#include <heed/kernel/chunk_decay.hpp>
#include <heed/kernel/recurrence_streams.hpp>
#include <heed/kernel/slot_controls.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
struct slot_call {
  using T = accumulator_t<S>;
  view<const S, 4> q, k, v;
  /// Write strengths and log gates, [B,G,N,slots]. If writes are controlled: logits, and none.
  view<const T, 4> strengths, gates;
  view<S, 4> out;
  /// [B,H,N,slots], if wanted.
  view<T, 4> scores;
  view<const T, 4> initial_keys, initial_values;
  view<T, 4> final_keys, final_values;
  sequence_offsets cu;
  double scale;
  index_t chunk;
  /// [B,G,slots]: z of controlled writes.
  view<const T, 3> initial_sums{};
  view<T, 3> final_sums{};

  index_t features() const noexcept { return k.extent(3); }
  index_t slots() const noexcept { return strengths.extent(3); }
  index_t value_features() const noexcept { return v.extent(3); }
  index_t chunk_tokens() const noexcept { return std::min(chunk, std::max<index_t>(k.extent(2), 1)); }
  stream_numbering streams() const noexcept {
    return {cu ? cu.size() - 1 : q.extent(0), q.extent(1), k.extent(1), k.extent(1), k.extent(2), cu};
  }
};

/// The states of a stream in one block: keys [D][slots], values [slots][E], and z [slots] of controlled writes.
template <class T>
struct slot_states {
  row_span<T> keys, values;
  T* sums;

  static index_t size(index_t features, index_t slots, index_t value_features, slot_writes writes) noexcept {
    const index_t rows = features + (writes == slot_writes::controlled ? 1 : 0);
    return rows * conflict_free_pitch<T>(slots) + slots * conflict_free_pitch<T>(value_features);
  }
  slot_states(T* data, index_t features, index_t slots, index_t value_features) noexcept
      : keys{data, conflict_free_pitch<T>(slots)},
        values{data + features * conflict_free_pitch<T>(slots), conflict_free_pitch<T>(value_features)},
        sums(values[slots]) {}
};

/// rows[t] = softmax(rows[t]) for t < count: of `slots` numbers, padded to whole vectors with anything.
template <class T, class A>
HEED_NOINLINE void softmax_over_slots(row_span<T> rows, index_t count, index_t slots) noexcept {
  using P = pack<T, A>;
  constexpr int width = P::lanes;
  alignas(64) T shift[width], factor[width];
  const index_t whole = slots / width * width;
  const int rest = static_cast<int>(slots - whole);
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  for (index_t first = 0; first < count; first += width) {
    const int some = static_cast<int>(std::min<index_t>(width, count - first));
    P top[width], sum[width];
    for (int r = 0; r < some; ++r) {
      T* const row = rows[first + r];
      if (rest > 0) std::fill_n(row + slots, width - rest, lowest);
      P most = P::load_aligned(row);
      for (index_t i = width; i < slots; i += width) most = max(P::load_aligned(row + i), most);
      top[r] = most;
    }
    (-largest_each<T, A>(top) * P(log2_e<T>)).store_aligned(shift);
    for (int r = 0; r < some; ++r) {
      T* const row = rows[first + r];
      for (index_t i = 0; i < slots; i += width) {
        const P x = P::load_aligned(row + i);
        const P p = exp2_bounded<precision::full>(fma(x, P(log2_e<T>), P(shift[r])));
        p.store_aligned(row + i);
        sum[r] += p;
      }
    }
    (P(T(1)) / sum_each<T, A>(sum)).store_aligned(factor);
    for (int r = 0; r < some; ++r) {
      T* const row = rows[first + r];
      for (index_t i = 0; i < slots; i += width) (P::load_aligned(row + i) * P(factor[r])).store_aligned(row + i);
    }
  }
}

template <class A, class S, slot_writes Writes = slot_writes::given>
class slot_forward_chunks {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  explicit slot_forward_chunks(const slot_call<S>& call) noexcept : call_(call) {}

  /// What prepare makes of a chunk.
  struct prepared {
    prepared(const slot_forward_chunks& op, scratch_cursor& memory) noexcept {
      const index_t tokens = op.chunk(), slots = op.call_.slots();
      key_copies = take_rows<T>(memory, tokens, op.call_.features());
      value_copies = take_rows<T>(memory, tokens, op.call_.value_features());
      decay = chunk_decay<T>(memory, tokens, slots);
      if constexpr (controlled) control = controlled_writes<T>(memory, tokens, slots);
    }

    row_span<T> key_copies, value_copies;
    /// [token][slot]: what the chunk leaves of a token's write.
    row_span<T> written;
    chunk_decay<T> decay;
    controlled_writes<T> control;
    row_span<const T> keys, values, strengths;
    index_t count = 0;
  };

  struct workspace {
    workspace(const slot_forward_chunks& op, scratch_cursor& memory) noexcept {
      const index_t tokens = op.chunk(), features = op.call_.features(), slots = op.call_.slots();
      query_copies = take_rows<T>(memory, tokens, features);
      out_copies = take_rows<T>(memory, tokens, op.call_.value_features());
      faded = take_rows<T>(memory, tokens, slots);
      reads = take_rows<T>(memory, tokens, slots);
      faded_reads = take_rows<T>(memory, tokens, slots);
      key_panels = take_panels<T, A>(memory, tokens, features);
      slot_panels = take_panels<T, A>(memory, tokens, slots);
      weights = take_rows<T>(memory, tokens, tokens);
      // Products leave what is above their diagonal alone, and others read some of it.
      if (weights.data != nullptr) std::fill_n(weights.data, tokens * weights.stride, T(0));
    }

    row_span<T> query_copies, out_copies;
    /// [token][slot]: a copy of writes that fades; scores, then what they read.
    row_span<T> faded, reads, faded_reads;
    row_panels<T> key_panels, slot_panels;
    row_span<T> weights;
    prefetcher ahead;
  };

  stream_numbering streams() const noexcept { return call_.streams(); }
  index_t chunk() const noexcept { return call_.chunk_tokens(); }
  index_t features() const noexcept { return call_.slots(); }
  index_t state_size() const noexcept {
    return slot_states<T>::size(call_.features(), call_.slots(), call_.value_features(), Writes);
  }

  void load_state(const recurrence_stream& stream, T* state) const noexcept {
    std::fill_n(state, state_size(), T(0));
    const slot_states<T> to = states(state);
    if constexpr (controlled)
      for (index_t m = 0; m < call_.slots(); ++m)
        to.sums[m] = call_.initial_sums ? call_.initial_sums(stream.sequence, stream.state_head, m)
                                        : -std::numeric_limits<T>::infinity();
    if (!call_.initial_keys) return;
    for (index_t d = 0; d < call_.features(); ++d)
      std::copy_n(&call_.initial_keys(stream.sequence, stream.state_head, d, 0), call_.slots(), to.keys[d]);
    for (index_t m = 0; m < call_.slots(); ++m)
      std::copy_n(&call_.initial_values(stream.sequence, stream.state_head, m, 0), call_.value_features(),
                  to.values[m]);
  }

  void finish(const recurrence_stream& stream, const T* state) const noexcept {
    const slot_states<const T> from = states(state);
    if constexpr (controlled)
      if (call_.final_sums)
        for (index_t m = 0; m < call_.slots(); ++m)
          call_.final_sums(stream.sequence, stream.state_head, m) = from.sums[m];
    if (!call_.final_keys) return;
    for (index_t d = 0; d < call_.features(); ++d)
      std::copy_n(from.keys[d], call_.slots(), &call_.final_keys(stream.sequence, stream.state_head, d, 0));
    for (index_t m = 0; m < call_.slots(); ++m)
      std::copy_n(from.values[m], call_.value_features(),
                  &call_.final_values(stream.sequence, stream.state_head, m, 0));
  }

  void prepare(prepared& ready, const recurrence_stream& stream, chunk_span span, const T* state) const noexcept {
    prepare(ready, stream, span, {0, call_.slots()}, state, [](index_t, index_t, int, P product) { return product; });
  }

  void attend(workspace& space, const prepared& ready, const recurrence_stream& stream, chunk_span span,
              const T* state) const noexcept {
    const slot_states<const T> before = states(state);
    const index_range rows{0, span.count}, slots{0, call_.slots()};
    const auto& decay = ready.decay;
    transpose_rows<T, A>(ready.keys, span.count, space.key_panels, [](index_t) { return P(T(1)); });
    transpose_rows<T, A>(row_span<const T>(ready.written), span.count, space.slot_panels,
                         [&](index_t m) { return P(decay.inverse[m]); });
    const row_span<const T> weights = space.weights;
    const P scale(static_cast<T>(call_.scale));
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h;
      const auto out = stream_rows(call_.out, stream, head, span.first, false);
      const row_span<T> left = rows_to_leave<T, A>(out, call_.value_features(), space.out_copies);
      const auto queries = rows_for_scalars<T, A>(stream_rows(call_.q, stream, head, span.first, false), 0, span.count,
                                                  call_.features(), space.query_copies);
      lower_products<T, A>(queries, space.key_panels, rows, space.weights, space.ahead);
      const auto from_state = times(queries, before.keys, call_.features());
      if (decay.mild) {
        sum_products<T, A>(
            rows, slots, from_state,
            [&](index_t, int v, P sum) { return sum * P::load_aligned(decay.total + v * P::lanes); },
            times<band::lower>(weights, ready.written, span.count),
            [&](index_t t, int v, P sum) {
              const index_t m = v * index_t(P::lanes);
              (sum * (decay.template until_at<A>(t, m) * P::load_aligned(decay.inverse + m)) * scale)
                  .store_aligned(space.reads[t] + m);
            },
            space.ahead);
      } else {
        sum_products<T, A>(
            rows, slots, from_state, [](index_t, int, P sum) { return sum; }, no_terms{},
            [&](index_t t, int v, P sum) {
              const index_t m = v * index_t(P::lanes);
              (sum * decay.template until_at<A>(t, m) * scale).store_aligned(space.reads[t] + m);
            },
            space.ahead);
        fade_writes(space, ready, stream, span, [&](index_t t) {
          for (index_t j = 0; j <= t; ++j) {
            const P weight(weights[t][j] * static_cast<T>(call_.scale));
            for (index_t m = 0; m < call_.slots(); m += P::lanes)
              fma(weight, P::load_aligned(space.faded[j] + m), P::load_aligned(space.reads[t] + m))
                  .store_aligned(space.reads[t] + m);
          }
        });
      }
      if (call_.scores) {
        const auto scores = stream_rows(call_.scores, stream, head, span.first, false);
        for (index_t t = 0; t < span.count; ++t) std::copy_n(space.reads[t], call_.slots(), scores[t]);
      }
      softmax_over_slots<T, A>(space.reads, span.count, call_.slots());
      copy_rows<T, A>(row_span<const T>(space.reads), 0, span.count, call_.slots(), space.faded_reads,
                      [until = decay.until](index_t t, index_t m, P x) { return x * P::load_aligned(until[t] + m); });
      if (decay.mild)
        lower_products<T, A>(space.faded_reads, space.slot_panels, rows, space.weights, space.ahead);
      else
        fade_writes(space, ready, stream, span, [&](index_t t) {
          weigh_faded<T, A>(space.reads[t], row_span<const T>(space.faded), t, call_.slots(), space.weights[t]);
        });
      sum_products<T, A>(
          rows, {0, call_.value_features()}, times(row_span<const T>(space.faded_reads), before.values, call_.slots()),
          [](index_t, int, P sum) { return sum; }, times<band::lower>(weights, ready.values, span.count),
          [left](index_t t, int v, P sum) { sum.store(left[t] + v * P::lanes); }, space.ahead);
      leave_rows<T, A>(left, out, 0, span.count, call_.value_features());
    }
  }

  void advance(workspace& space, const prepared& ready, const T* from, T* to) const noexcept {
    advance(space, ready, from, to, {0, call_.slots()});
  }

  void write(workspace& space, prepared& ready, const recurrence_stream& stream, chunk_span span, index_range slots,
             const T* from, T* to) const noexcept {
    prepare(ready, stream, span, slots, from, typename chunk_decay<T>::nowhere{});
    call_ahead(space, stream, span.first + span.count, slots, rows_ahead::written);
    advance(space, ready, from, to, slots);
  }

  /// Has the products that follow call the rows of a chunk from token `first` on.
  void call_ahead(workspace& space, const recurrence_stream& stream, index_t first, rows_ahead wanted) const noexcept {
    call_ahead(space, stream, first, {0, call_.slots()}, wanted);
  }

 private:
  static constexpr bool controlled = Writes == slot_writes::controlled;

  template <class U>
  slot_states<U> states(U* data) const noexcept {
    return {data, call_.features(), call_.slots(), call_.value_features()};
  }

  /// What some slots of the state after a chunk take; gates multiply up to what `read` makes of them.
  template <class Read>
  void prepare(prepared& ready, const recurrence_stream& stream, chunk_span span, index_range slots, const T* state,
               Read read) const noexcept {
    ready.count = span.count;
    const auto keys = stream_rows(call_.k, stream, stream.kv_head, span.first, false);
    const auto values = stream_rows(call_.v, stream, stream.kv_head, span.first, false);
    ready.strengths = stream_rows(call_.strengths, stream, stream.kv_head, span.first, false);
    if constexpr (controlled) {
      ready.control.template prepare<A>(ready.strengths, span.count, states(state).sums, slots);
      ready.strengths = ready.control.strengths;
    }
    ready.decay.template multiply<A>(span.count, slots, gates(ready, stream, span), read,
                                     [strengths = ready.strengths](index_t t, index_t m, int some, P product) {
                                       return load_some<T, A>(strengths[t] + m, some) * product;
                                     });
    ready.written = ready.decay.after;
    ready.keys = rows_for_scalars<T, A>(keys, 0, span.count, call_.features(), ready.key_copies);
    ready.values = rows_for_vectors<T, A>(values, 0, span.count, call_.value_features(), ready.value_copies);
  }

  void advance(workspace& space, const prepared& ready, const T* from, T* to, index_range slots) const noexcept {
    const slot_states<const T> before = states(from);
    const slot_states<T> after = states(to);
    sum_product<T, A>(
        {0, call_.features()}, slots,
        [&](index_t d, int v) {
          const index_t m = v * index_t(P::lanes);
          return without_negligible(P::load_aligned(before.keys[d] + m) * P::load_aligned(ready.decay.total + m));
        },
        transposed_times(ready.keys, ready.written, ready.count),
        [&](index_t d, int v, P sum) { sum.store_aligned(after.keys[d] + v * P::lanes); }, space.ahead);
    sum_product<T, A>(
        slots, {0, call_.value_features()},
        [&](index_t m, int v) {
          return without_negligible(P::load_aligned(before.values[m] + v * P::lanes) * P(ready.decay.total[m]));
        },
        transposed_times(row_span<const T>(ready.written), ready.values, ready.count),
        [&](index_t m, int v, P sum) { sum.store_aligned(after.values[m] + v * P::lanes); }, space.ahead);
    if constexpr (controlled)
      std::copy(ready.control.sums + slots.low, ready.control.sums + slots.high, after.sums + slots.low);
  }

  /// The gates of a vector of slots of a token.
  auto gates(const prepared& ready, const recurrence_stream& stream, chunk_span span) const noexcept {
    if constexpr (controlled)
      return ready.control.template gate_rows<A>();
    else
      return gate_rows<A>(stream_rows(call_.gates, stream, stream.kv_head, span.first, false));
  }

  void call_ahead(workspace& space, const recurrence_stream& stream, index_t first, index_range of_slots,
                  rows_ahead wanted) const noexcept {
    const index_t count = std::min(chunk(), stream.tokens - first);
    space.ahead = {};
    if (count <= 0) return;
    const auto add = [&](const auto& tensor, index_t head, index_t features) {
      const auto rows = stream_rows(tensor, stream, head, first, false);
      space.ahead.add(rows.data, rows.stride, count, features);
    };
    const index_t some_slots = vectors_of<T, A>(of_slots.high - of_slots.low);
    const index_t slots = vectors_of<T, A>(call_.slots()), values = vectors_of<T, A>(call_.value_features());
    index_t work = 0;
    if (wanted != rows_ahead::read) {
      if constexpr (!controlled) add(call_.gates, stream.kv_head, call_.slots());
      add(call_.strengths, stream.kv_head, call_.slots());
      add(call_.k, stream.kv_head, call_.features());
      add(call_.v, stream.kv_head, call_.value_features());
      work += call_.features() * some_slots + (of_slots.high - of_slots.low) * values;
    }
    if (wanted != rows_ahead::written) {
      for (index_t h = 0; h < stream.heads; ++h) add(call_.q, stream.first_head + h, call_.features());
      work += stream.heads * count * (vectors_of<T, A>(count) + slots + values);
    }
    space.ahead.spread(work);
  }

  /// Calls visit(t) when space.faded[j] holds what token t sees of the write of token j.
  template <class Visit>
  void fade_writes(workspace& space, const prepared& ready, const recurrence_stream& stream, chunk_span span,
                   const Visit& visit) const noexcept {
    copy_rows<T, A>(ready.strengths, 0, span.count, call_.slots(), space.faded);
    decay_downward<T, A>(span.count, call_.slots(), space.faded, gates(ready, stream, span), visit);
  }

  const slot_call<S>& call_;
};

}  // namespace detail
HEED_ARCH_END
