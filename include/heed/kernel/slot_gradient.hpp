/// Gradients of Gated Slot Attention: of the reading of slot values, of the softmax over slots, then of the reading of
/// slot keys.
#pragma once

#include <heed/kernel/gated_gradient.hpp>
#include <heed/kernel/recurrence_backward_run.hpp>
#include <heed/kernel/slot_chunks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
struct slot_gradient_call {
  using T = accumulator_t<S>;
  /// Its outputs are not looked at.
  slot_call<S> forward;
  view<const T, 4> scores;
  view<const S, 4> dout;
  view<S, 4> dq, dk, dv;
  view<T, 4> ds, dg;
  view<T, 4> dinitial_keys, dinitial_values;
  view<const T, 4> dfinal_keys, dfinal_values;
  /// By z of controlled writes, which have no dg.
  view<T, 3> dinitial_sums;
  view<const T, 3> dfinal_sums;
};

template <class A, class S, slot_writes Writes = slot_writes::given>
class slot_backward_chunks {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  explicit slot_backward_chunks(const slot_gradient_call<S>& call) noexcept : call_(call) {}

  struct workspace {
    workspace(const slot_backward_chunks& op, scratch_cursor& memory) noexcept
        : slots(memory, op.chunk(), op.slots()),
          keys(memory, op.chunk(), op.slots(), op.features()),
          values(memory, op.chunk(), op.slots(), op.value_features()),
          key_gates(take_rows<T>(memory, op.chunk(), op.slots())),
          value_gates(take_rows<T>(memory, op.chunk(), op.slots())) {
      if constexpr (controlled) control = controlled_writes<T>(memory, op.chunk(), op.slots());
    }

    gated_writes<T, A> slots;
    gated_gradient<T, A> keys, values;
    row_span<T> key_gates, value_gates;
    controlled_writes<T> control;
  };

  stream_numbering streams() const noexcept { return call_.forward.streams(); }
  index_t chunk() const noexcept { return call_.forward.chunk_tokens(); }
  /// Slots are the columns of both states: keys, values, and z of controlled writes.
  index_t state_size() const noexcept { return (features() + value_features() + (controlled ? 1 : 0)) * pitch(); }

  void load_state(const recurrence_stream& stream, T* state) const noexcept {
    load(call_.forward.initial_keys, call_.forward.initial_values, stream, state);
    load_sums(call_.forward.initial_sums, -std::numeric_limits<T>::infinity(), stream, state);
  }
  void load_gradient(const recurrence_stream& stream, T* gradient) const noexcept {
    load(call_.dfinal_keys, call_.dfinal_values, stream, gradient);
    load_sums(call_.dfinal_sums, T(0), stream, gradient);
  }
  void finish(const recurrence_stream& stream, const T* gradient) const noexcept {
    if constexpr (controlled)
      if (call_.dinitial_sums)
        for (index_t m = 0; m < slots(); ++m)
          call_.dinitial_sums(stream.sequence, stream.state_head, m) = sums_of_state(gradient)[m];
    if (!call_.dinitial_keys) return;
    const T* const of_values = values_of_state(gradient);
    for (index_t m = 0; m < slots(); ++m) {
      for (index_t d = 0; d < features(); ++d)
        call_.dinitial_keys(stream.sequence, stream.state_head, d, m) = gradient[d * pitch() + m];
      for (index_t e = 0; e < value_features(); ++e)
        call_.dinitial_values(stream.sequence, stream.state_head, m, e) = of_values[e * pitch() + m];
    }
  }

  void advance(workspace& space, const recurrence_stream& stream, chunk_span span, const T* from,
               T* to) const noexcept {
    prepare(space, stream, span, from, false);
    const index_t next = span.first + span.count;
    call_ahead(space, stream, next, std::min(span.count, stream.tokens - next), false);
    space.keys.advance(space.slots, from, to);
    space.values.advance(space.slots, values_of_state(from), values_of_state(to));
    if constexpr (controlled) std::copy_n(space.control.sums, slots(), sums_of_state(to));
  }

  void retreat(workspace& space, const recurrence_stream& stream, chunk_span span, const T* before, const T* after,
               const T* later, T* earlier) const noexcept {
    prepare(space, stream, span, before, true);
    call_ahead(space, stream, span.first - chunk(), span.first == 0 ? 0 : chunk(), true);
    auto& keys = space.keys;
    auto& values = space.values;
    const auto gate = gates(space, stream, span);
    const P scale(static_cast<T>(call_.forward.scale));
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h;
      const auto rows = [&](const auto& tensor) { return stream_rows(tensor, stream, head, span.first, false); };
      const auto copied = [](index_t, index_t, P x) { return x; };
      const auto scores = rows(call_.scores);
      copy_rows<T, A>(scores, 0, span.count, slots(), values.gated_reads, copied);
      softmax_over_slots<T, A>(values.gated_reads, span.count, slots());
      copy_rows<T, A>(rows(call_.dout), 0, span.count, value_features(), values.plain_reads, copied);
      values.template differentiate<true, false>(space.slots, gate, values_of_state(before), values_of_state(later),
                                                 values_of_state(earlier), h == 0);
      differentiate_softmax(values.gated_reads, values.dgated_reads, keys.gated_reads, span.count);
      add_gates(values.gated_reads, row_span<const T>(values.dgated_reads), space.value_gates, span.count, h == 0);
      add_gates(keys.gated_reads, scores, space.key_gates, span.count, h == 0);
      copy_rows<T, A>(row_span<const T>(keys.gated_reads), 0, span.count, slots(), keys.gated_reads,
                      [&](index_t, index_t, P x) { return x * scale; });
      copy_rows<T, A>(rows(call_.forward.q), 0, span.count, features(), keys.plain_reads, copied);
      keys.template differentiate<false, true>(space.slots, gate, before, later, earlier, h == 0);
      store_rows<A>(row_span<const T>(keys.dplain_reads), rows(call_.dq), span.count, features());
    }
    const auto rows = [&](const auto& tensor) {
      return stream_rows(tensor, stream, stream.kv_head, span.first, false);
    };
    keys.differentiate_gates(space.slots, after, later, space.key_gates);
    values.differentiate_gates(space.slots, values_of_state(after), values_of_state(later), space.value_gates);
    add_rows(keys.dgated_writes, values.dgated_writes, span.count);
    add_rows(space.key_gates, space.value_gates, span.count);
    if constexpr (controlled)
      space.control.template differentiate<A>(keys.dgated_writes, space.key_gates, span.count, slots(),
                                              sums_of_state(later), sums_of_state(earlier));
    else
      store_rows<A>(row_span<const T>(space.key_gates), rows(call_.dg), span.count, slots());
    store_rows<A>(row_span<const T>(keys.dplain_writes), rows(call_.dk), span.count, features());
    store_rows<A>(row_span<const T>(values.dplain_writes), rows(call_.dv), span.count, value_features());
    store_rows<A>(row_span<const T>(keys.dgated_writes), rows(call_.ds), span.count, slots());
  }

 private:
  static constexpr bool controlled = Writes == slot_writes::controlled;

  index_t features() const noexcept { return call_.forward.features(); }
  index_t slots() const noexcept { return call_.forward.slots(); }
  index_t value_features() const noexcept { return call_.forward.value_features(); }
  index_t pitch() const noexcept { return conflict_free_pitch<T>(slots()); }
  template <class U>
  U* values_of_state(U* state) const noexcept {
    return state + features() * pitch();
  }
  template <class U>
  U* sums_of_state(U* state) const noexcept {
    return state + (features() + value_features()) * pitch();
  }

  void load_sums(const view<const T, 3>& from, T otherwise, const recurrence_stream& stream, T* to) const noexcept {
    if constexpr (controlled)
      for (index_t m = 0; m < slots(); ++m)
        sums_of_state(to)[m] = from ? from(stream.sequence, stream.state_head, m) : otherwise;
  }

  /// Slot values [slots][E] of the caller lie transposed here.
  void load(const view<const T, 4>& keys, const view<const T, 4>& values, const recurrence_stream& stream,
            T* to) const noexcept {
    std::fill_n(to, state_size(), T(0));
    if (!keys) return;
    T* const to_values = values_of_state(to);
    for (index_t m = 0; m < slots(); ++m) {
      for (index_t d = 0; d < features(); ++d) to[d * pitch() + m] = keys(stream.sequence, stream.state_head, d, m);
      for (index_t e = 0; e < value_features(); ++e)
        to_values[e * pitch() + m] = values(stream.sequence, stream.state_head, m, e);
    }
  }

  /// What a state takes from a chunk, or what gradients take too.
  void prepare(workspace& space, const recurrence_stream& stream, chunk_span span, const T* before,
               bool gradients) const noexcept {
    const auto rows = [&](const auto& tensor) {
      return stream_rows(tensor, stream, stream.kv_head, span.first, false);
    };
    row_span<const T> strengths = rows(call_.forward.strengths);
    if constexpr (controlled) {
      space.control.template prepare<A>(strengths, span.count, sums_of_state(before), {0, slots()});
      strengths = space.control.strengths;
    }
    if (gradients)
      space.slots.prepare_all(strengths, span.count, gates(space, stream, span));
    else
      space.slots.prepare(strengths, span.count, gates(space, stream, span));
    space.keys.prepare(rows(call_.forward.k), span.count);
    space.values.prepare(rows(call_.forward.v), span.count);
  }

  /// Has products call the rows of a chunk that is next: of keys, values, writes and gates, and for gradients of
  /// queries, scores, what arrives at outputs, and of the gradients themselves.
  void call_ahead(workspace& space, const recurrence_stream& stream, index_t first, index_t count,
                  bool gradients) const noexcept {
    prefetcher& ahead = gradients ? space.values.ahead : space.keys.ahead;
    space.keys.ahead = space.values.ahead = {};
    if (count <= 0) return;
    const auto add = [&](const auto& tensor, index_t head, index_t numbers) {
      const auto rows = stream_rows(tensor, stream, head, first, false);
      ahead.add(rows.data, rows.stride, count, numbers);
    };
    if constexpr (!controlled) add(call_.forward.gates, stream.kv_head, slots());
    add(call_.forward.strengths, stream.kv_head, slots());
    add(call_.forward.k, stream.kv_head, features());
    add(call_.forward.v, stream.kv_head, value_features());
    if (gradients)
      for (index_t h = 0; h < stream.heads; ++h) {
        add(call_.forward.q, stream.first_head + h, features());
        add(call_.scores, stream.first_head + h, slots());
        add(call_.dout, stream.first_head + h, value_features());
        add(call_.dq, stream.first_head + h, features());
      }
    if (gradients) {
      add(call_.dk, stream.kv_head, features());
      add(call_.dv, stream.kv_head, value_features());
      add(call_.ds, stream.kv_head, slots());
      if constexpr (!controlled) add(call_.dg, stream.kv_head, slots());
    }
    const index_t vectors = vectors_of<T, A>(slots());
    ahead.spread(gradients
                     ? stream.heads * (count * (vectors_of<T, A>(count) + 3 * vectors) + value_features() * vectors)
                     : features() * vectors);
  }

  auto gates(const workspace& space, const recurrence_stream& stream, chunk_span span) const noexcept {
    if constexpr (controlled)
      return space.control.template gate_rows<A>();
    else
      return gate_rows<A>(stream_rows(call_.forward.gates, stream, stream.kv_head, span.first, false));
  }

  /// du = p (dp - p . dp).
  void differentiate_softmax(row_span<const T> p, row_span<const T> dp, row_span<T> du, index_t count) const noexcept {
    constexpr int width = P::lanes;
    alignas(64) T products[width];
    for (index_t first = 0; first < count; first += width) {
      const int some = static_cast<int>(std::min<index_t>(width, count - first));
      P sums[width];
      for (int r = 0; r < some; ++r)
        for (index_t m = 0; m < slots(); m += width)
          sums[r] = fma(P::load_aligned(p[first + r] + m), P::load_aligned(dp[first + r] + m), sums[r]);
      sum_each<T, A>(sums).store_aligned(products);
      for (int r = 0; r < some; ++r)
        for (index_t m = 0; m < slots(); m += width)
          (P::load_aligned(p[first + r] + m) * (P::load_aligned(dp[first + r] + m) - P(products[r])))
              .store_aligned(du[first + r] + m);
    }
  }

  /// sums = x y, or += for later heads.
  void add_gates(row_span<const T> x, row_span<const T> y, row_span<T> sums, index_t count, bool first) const noexcept {
    for (index_t t = 0; t < count; ++t)
      for_vectors<T, A>(slots(), [&](index_t m, int some) {
        const P before = first ? P(T(0)) : P::load_aligned(sums[t] + m);
        fma(P::load_aligned(x[t] + m), load_some<T, A>(y[t] + m, some), before).store_aligned(sums[t] + m);
      });
  }

  void add_rows(row_span<T> to, row_span<const T> other, index_t count) const noexcept {
    for (index_t t = 0; t < count; ++t)
      for (index_t m = 0; m < slots(); m += P::lanes)
        (P::load_aligned(to[t] + m) + P::load_aligned(other[t] + m)).store_aligned(to[t] + m);
  }

  const slot_gradient_call<S>& call_;
};

}  // namespace detail
HEED_ARCH_END
