/// Gradients of the recurrence R_t = a_t R_{t-1} + k_t v_t^T, o_t = scale R_t^T q_t.
#pragma once

#include <heed/kernel/gated_gradient.hpp>
#include <heed/kernel/linear_chunks.hpp>
#include <heed/kernel/recurrence_backward_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S, class Forward = linear_call<S>>
struct linear_gradient_call {
  using T = accumulator_t<S>;
  /// `out` and `final_state` are not looked at.
  Forward forward;
  view<const S, 4> dout;
  view<S, 4> dq, dk, dv;
  /// As the gates are.
  view<T, 4> dfeature_gates;
  view<T, 3> dtoken_gates;
  view<T, 4> dinitial_state;
  view<const T, 4> dfinal_state;
  /// By the slopes of each sequence, if wanted: [B,H], or [S,H] of packed sequences.
  view<T, 2> dslopes;
};

/// Rows as the tensors have them, for linear_backward_chunks.
template <class A, class S>
class tensor_gradient_rows : public tensor_rows<A, S> {
 public:
  using T = accumulator_t<S>;
  using call_type = linear_gradient_call<S>;

  explicit tensor_gradient_rows(const call_type& call) noexcept : tensor_rows<A, S>(call.forward), call_(call) {}

  /// Rows [begin, end) of a head's queries, and of the gradient that arrives at its outputs.
  void read(typename tensor_rows<A, S>::workspace&, const recurrence_stream& stream, index_t head, index_t first,
            index_t begin, index_t end, row_span<T> queries, row_span<T> upstream) const noexcept {
    const pack<T, A> scale(static_cast<T>(call_.forward.scale));
    const auto rows = [&](const auto& tensor) {
      return stream_rows(tensor, stream, head, first, call_.forward.reverse);
    };
    copy_rows<T, A>(rows(call_.forward.q), begin, end, call_.forward.features(), queries);
    copy_rows<T, A>(rows(call_.dout), begin, end, call_.forward.value_features(), upstream,
                    [&](index_t, index_t, pack<T, A> x) { return x * scale; });
  }
  /// From gradients by the rows that were made of queries or keys, in place; and of values.
  void differentiate_queries(typename tensor_rows<A, S>::workspace&, index_t, index_t, row_span<const T>,
                             row_span<T>) const noexcept {}
  void differentiate_keys(typename tensor_rows<A, S>::workspace&, index_t, row_span<const T>,
                          row_span<T>) const noexcept {}
  void differentiate_values(const recurrence_stream&, chunk_span, row_span<T>) const noexcept {}

 private:
  const call_type& call_;
};

template <class A, class S, gate_kind Kind, class Rows = tensor_gradient_rows<A, S>>
class linear_backward_chunks {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  explicit linear_backward_chunks(const typename Rows::call_type& call) noexcept : call_(call), rows_(call) {}

  struct workspace {
    workspace(const linear_backward_chunks& op, scratch_cursor& memory) noexcept
        : rows(op.rows_, memory, op.chunk()),
          gated(memory, op.chunk(), op.features()),
          core(memory, op.chunk(), op.features(), op.rows_.columns()),
          gate_rows(take_rows<T>(memory, op.chunk(), op.features())) {}

    typename Rows::workspace rows;
    gated_writes<T, A> gated;
    gated_gradient<T, A> core;
    row_span<T> gate_rows;
  };

  stream_numbering streams() const noexcept { return call_.forward.streams(); }
  index_t chunk() const noexcept { return call_.forward.chunk_tokens(); }
  index_t queries_of(const recurrence_stream& stream) const noexcept { return call_.forward.queries_of(stream); }
  index_t state_size() const noexcept { return rows_.columns() * pitch() + rows_.extra_numbers(); }

  void load_state(const recurrence_stream& stream, T* state) const noexcept {
    std::fill_n(state, state_size(), T(0));
    rows_.load_state(stream, state, 1, pitch(), extra(state));
  }
  void load_gradient(const recurrence_stream& stream, T* gradient) const noexcept {
    if (call_.dslopes) call_.dslopes(stream.sequence, stream.state_head) = T(0);
    std::fill_n(gradient, state_size(), T(0));
    if (!call_.dfinal_state) return;
    for (index_t d = 0; d < features(); ++d)
      for (index_t e = 0; e < value_features(); ++e)
        gradient[e * pitch() + d] = call_.dfinal_state(stream.sequence, stream.state_head, d, e);
  }
  void finish(const recurrence_stream& stream, const T* gradient) const noexcept {
    if (!call_.dinitial_state) return;
    for (index_t d = 0; d < features(); ++d)
      for (index_t e = 0; e < value_features(); ++e)
        call_.dinitial_state(stream.sequence, stream.state_head, d, e) = gradient[e * pitch() + d];
  }

  void advance(workspace& space, const recurrence_stream& stream, chunk_span span, const T* from,
               T* to) const noexcept {
    prepare(space, stream, span, from, false);
    const index_t next = span.first + span.count;
    call_ahead(space, stream, next, std::min(span.count, stream.tokens - next), false);
    space.core.advance(space.gated, from, to);
    rows_.advance(space.rows, extra(to), {0, features()});
  }

  void retreat(workspace& space, const recurrence_stream& stream, chunk_span span, const T* before, const T* after,
               const T* later, T* earlier) const noexcept {
    prepare(space, stream, span, before, true);
    call_ahead(space, stream, span.first - chunk(), span.first == 0 ? 0 : chunk(), true);
    auto& core = space.core;
    const auto [begin, end] = call_.forward.tokens_of_queries(stream, span);
    const index_t first = call_.forward.first_query(span);
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h;
      read(space, stream, head, first, begin, end, span.count);
      core.template differentiate<true, false>(space.gated, gates(space, stream, span), before, later, earlier, h == 0);
      if constexpr (Kind != gate_kind::none)
        for (index_t t = 0; t < span.count; ++t)
          for (index_t i = 0; i < features(); i += P::lanes) {
            const P sum = h == 0 ? P(T(0)) : P::load_aligned(space.gate_rows[t] + i);
            fma(P::load_aligned(core.gated_reads[t] + i), P::load_aligned(core.dgated_reads[t] + i), sum)
                .store_aligned(space.gate_rows[t] + i);
          }
      store_reads(space, stream, head, first, begin, end);
    }
    if constexpr (Kind != gate_kind::none)
      if (call_.dfeature_gates || call_.dtoken_gates || call_.dslopes) {
        core.differentiate_gates(space.gated, after, later, space.gate_rows);
        store_gates(row_span<const T>(space.gate_rows), stream, span);
      }
    store_writes(space, stream, span);
  }

  /// Gradients by queries that see all that a state holds; they add to the gradient by the state.
  void differentiate_reads(workspace& space, const recurrence_stream& stream, chunk_span span, const T* state,
                           T* gradient) const noexcept {
    const bool nothing = stream.tokens == 0 && !call_.forward.initial_state;
    rows_.prepare_reads(space.rows, extra(state));
    for (index_t h = 0; h < stream.heads; ++h) {
      read(space, stream, stream.first_head + h, span.first, 0, nothing ? 0 : span.count, span.count);
      space.core.differentiate_reads(span.count, state, gradient);
      store_reads(space, stream, stream.first_head + h, span.first, 0, span.count);
    }
  }
  /// Gradients by keys and values that the last state holds.
  void differentiate_writes(workspace& space, const recurrence_stream& stream, chunk_span span, const T* state,
                            const T* gradient) const noexcept {
    prepare(space, stream, span, state, true);
    space.core.differentiate_writes(space.gated, gradient);
    store_writes(space, stream, span);
  }

 private:
  index_t features() const noexcept { return rows_.features(); }
  index_t value_features() const noexcept { return call_.forward.value_features(); }
  bool reverse() const noexcept { return call_.forward.reverse; }
  index_t pitch() const noexcept { return conflict_free_pitch<T>(features()); }

  /// States [D][E] of the caller lie transposed here, their extra numbers behind them.
  template <class U>
  U* extra(U* state) const noexcept {
    return state + rows_.columns() * pitch();
  }

  /// What a state takes from a chunk, or what gradients take too.
  void prepare(workspace& space, const recurrence_stream& stream, chunk_span span, const T* state,
               bool gradients) const noexcept {
    rows_.prepare(space.rows, stream, span, {0, features()}, extra(state));
    const auto keys = rows_.keys(space.rows, stream, span);
    if (gradients)
      space.gated.prepare_all(keys, span.count, gates(space, stream, span));
    else
      space.gated.prepare(keys, span.count, gates(space, stream, span));
    space.core.plain_writes = space.rows.values;
  }

  /// Has products call the rows of a chunk that is next: of keys, values and gates, and for gradients of queries, of
  /// what arrives at outputs, and of the gradients themselves.
  void call_ahead(workspace& space, const recurrence_stream& stream, index_t first, index_t count,
                  bool gradients) const noexcept {
    space.core.ahead = {};
    if (count <= 0) return;
    const auto add = [&](const auto& tensor, index_t head, index_t from, index_t numbers) {
      const auto rows = stream_rows(tensor, stream, head, from, reverse());
      space.core.ahead.add(rows.data, rows.stride, count, numbers);
    };
    if constexpr (Kind == gate_kind::feature)
      if (call_.forward.feature_gates) add(call_.forward.feature_gates, stream.kv_head, first, features());
    add(call_.forward.k, stream.kv_head, first, call_.forward.k.extent(3));
    add(call_.forward.v, call_.forward.value_head(stream), first, value_features());
    if (gradients && call_.forward.offset == 0)
      for (index_t h = 0; h < stream.heads; ++h) {
        add(call_.forward.q, call_.forward.query_head(stream.first_head + h), first, call_.forward.q.extent(3));
        add(call_.dout, stream.first_head + h, first, value_features());
        add(call_.dq, call_.forward.query_head(stream.first_head + h), first, call_.dq.extent(3));
      }
    if (gradients) {
      add(call_.dk, stream.kv_head, first, call_.dk.extent(3));
      add(call_.dv, call_.forward.value_head(stream), first, value_features());
      if constexpr (Kind == gate_kind::feature)
        if (call_.dfeature_gates) add(call_.dfeature_gates, stream.kv_head, first, features());
    }
    const index_t vectors = vectors_of<T, A>(features());
    const index_t of_state = rows_.columns() * vectors;
    space.core.ahead.spread(gradients ? stream.heads * (count * (vectors_of<T, A>(count) + 3 * vectors) + of_state)
                                      : of_state);
  }

  /// Reads of a head, of which [begin, end) are there.
  void read(workspace& space, const recurrence_stream& stream, index_t head, index_t first, index_t begin, index_t end,
            index_t count) const noexcept {
    auto& core = space.core;
    rows_.read(space.rows, stream, head, first, begin, end, core.gated_reads, core.plain_reads);
    for (index_t t = 0; t < count; ++t) {
      if (t >= begin && t < end) continue;
      std::fill_n(core.gated_reads[t], core.gated_reads.stride, T(0));
      std::fill_n(core.plain_reads[t], core.plain_reads.stride, T(0));
    }
  }
  void store_reads(workspace& space, const recurrence_stream& stream, index_t head, index_t first, index_t begin,
                   index_t end) const noexcept {
    auto& core = space.core;
    rows_.differentiate_queries(space.rows, begin, end, core.gated_reads, core.dgated_reads);
    store_sums(core.dgated_reads.from(begin),
               stream_rows(call_.dq, stream, call_.forward.query_head(head), first + begin, reverse()), end - begin,
               call_.forward.features(), call_.forward.heads() == call_.forward.q.extent(1) || stream.first_of_kv_head);
  }
  void store_writes(workspace& space, const recurrence_stream& stream, chunk_span span) const noexcept {
    rows_.differentiate_keys(space.rows, span.count, space.gated.writes, space.core.dgated_writes);
    rows_.differentiate_values(stream, span, space.core.dplain_writes);
    store_sums(space.core.dgated_writes, stream_rows(call_.dk, stream, stream.kv_head, span.first, reverse()),
               span.count, call_.forward.features(), stream.first_of_kv_head);
    const index_t head = call_.forward.value_head(stream);
    store_sums(space.core.dplain_writes, stream_rows(call_.dv, stream, head, span.first, reverse()), span.count,
               value_features(), head == stream.state_head || stream.first_of_kv_head);
  }

  /// The gates of a vector of features of a token.
  auto gates(const workspace& space, const recurrence_stream& stream, chunk_span span) const noexcept {
    if constexpr (Kind == gate_kind::feature) {
      return gate_rows<A>(rows_.log_gates(space.rows, stream, span));
    } else if constexpr (Kind == gate_kind::token) {
      const P first = gate_of(P(call_.forward.token_log_gate(stream, span.first)));
      return [this, stream, span, first](index_t t, index_t, int) {
        return call_.forward.constant() ? first : gate_of(P(call_.forward.token_log_gate(stream, span.first + t)));
      };
    } else {
      return typename gated_writes<T, A>::no_gates{};
    }
  }

  /// Gradients of states that share rows are added up, in the order of their heads.
  void store_sums(row_span<T> from, row_span<S> to, index_t count, index_t features, bool first) const noexcept {
    if (!first)
      for (index_t t = 0; t < count; ++t)
        for_vectors<T, A>(features, [&](index_t i, int some) {
          (P::load_aligned(from[t] + i) + load_some<T, A>(to[t] + i, some)).store_aligned(from[t] + i);
        });
    store_rows<A>(row_span<const T>(from), to, count, features);
  }

  void store_gates(row_span<const T> rows, const recurrence_stream& stream, chunk_span span) const noexcept {
    if constexpr (Kind == gate_kind::feature) {
      store_rows<A>(rows, stream_rows(call_.dfeature_gates, stream, stream.kv_head, span.first, reverse()), span.count,
                    features());
    } else {
      for (index_t t = 0; t < span.count; ++t) {
        P sum(T(0));
        for_vectors<T, A>(features(), [&](index_t i, int some) { sum += load_some<T, A>(rows[t] + i, some); });
        const T gate = reduce_add(sum);
        if (call_.dslopes)
          call_.dslopes(stream.sequence, stream.state_head) +=
              call_.forward.slope_sign * call_.forward.step(stream, span.first + t) * gate;
        if (call_.dtoken_gates)
          call_.dtoken_gates(stream.batch, call_.forward.sloped() ? stream.state_head : stream.kv_head,
                             call_.forward.row(stream, span.first + t)) = gate;
      }
    }
  }

  const typename Rows::call_type& call_;
  Rows rows_;
};

}  // namespace detail
HEED_ARCH_END
