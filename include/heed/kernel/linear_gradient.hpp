/// Gradients of the recurrence R_t = a_t R_{t-1} + k_t v_t^T, o_t = scale R_t^T q_t.
#pragma once

#include <heed/kernel/gated_gradient.hpp>
#include <heed/kernel/linear_chunks.hpp>
#include <heed/kernel/recurrence_backward_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
struct linear_gradient_call {
  using T = accumulator_t<S>;
  /// `out` and `final_state` are not looked at.
  linear_call<S> forward;
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

template <class A, class S, gate_kind Kind>
class linear_backward_chunks {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  explicit linear_backward_chunks(const linear_gradient_call<S>& call) noexcept : call_(call) {}

  struct workspace {
    workspace(const linear_backward_chunks& op, scratch_cursor& memory) noexcept
        : gated(memory, op.chunk(), op.features()),
          core(memory, op.chunk(), op.features(), op.value_features()),
          gate_rows(take_rows<T>(memory, op.chunk(), op.features())) {}

    gated_writes<T, A> gated;
    gated_gradient<T, A> core;
    row_span<T> gate_rows;
  };

  stream_numbering streams() const noexcept { return call_.forward.streams(); }
  index_t chunk() const noexcept {
    return std::min(call_.forward.chunk, std::max<index_t>(call_.forward.k.extent(2), 1));
  }
  index_t state_size() const noexcept { return value_features() * pitch(); }

  void load_state(const recurrence_stream& stream, T* state) const noexcept {
    load(call_.forward.initial_state, stream, state);
  }
  void load_gradient(const recurrence_stream& stream, T* gradient) const noexcept {
    load(call_.dfinal_state, stream, gradient);
    if (call_.dslopes) call_.dslopes(stream.sequence, stream.state_head) = T(0);
  }
  void finish(const recurrence_stream& stream, const T* gradient) const noexcept {
    if (!call_.dinitial_state) return;
    for (index_t d = 0; d < features(); ++d)
      for (index_t e = 0; e < value_features(); ++e)
        call_.dinitial_state(stream.sequence, stream.state_head, d, e) = gradient[e * pitch() + d];
  }

  void advance(workspace& space, const recurrence_stream& stream, chunk_span span, const T* from,
               T* to) const noexcept {
    prepare(space, stream, span);
    space.core.advance(space.gated, from, to);
  }

  void retreat(workspace& space, const recurrence_stream& stream, chunk_span span, const T* before, const T* after,
               const T* later, T* earlier) const noexcept {
    prepare(space, stream, span);
    space.gated.prepare_panels();
    auto& core = space.core;
    const P scale(static_cast<T>(call_.forward.scale));
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h;
      const auto rows = [&](const auto& tensor) { return stream_rows(tensor, stream, head, span.first, reverse()); };
      copy_rows<T, A>(rows(call_.forward.q), 0, span.count, features(), core.gated_reads,
                      [](index_t, index_t, P x) { return x; });
      copy_rows<T, A>(rows(call_.dout), 0, span.count, value_features(), core.plain_reads,
                      [&](index_t, index_t, P x) { return x * scale; });
      core.template differentiate<true, false>(space.gated, gates(stream, span), before, later, earlier, h == 0);
      store_rows<A>(row_span<const T>(core.dgated_reads), rows(call_.dq), span.count, features());
      if constexpr (Kind != gate_kind::none)
        for (index_t t = 0; t < span.count; ++t)
          for (index_t i = 0; i < features(); i += P::lanes) {
            const P sum = h == 0 ? P(T(0)) : P::load_aligned(space.gate_rows[t] + i);
            fma(P::load_aligned(core.gated_reads[t] + i), P::load_aligned(core.dgated_reads[t] + i), sum)
                .store_aligned(space.gate_rows[t] + i);
          }
    }
    if constexpr (Kind != gate_kind::none)
      if (call_.dfeature_gates || call_.dtoken_gates || call_.dslopes) {
        core.differentiate_gates(space.gated, after, later, space.gate_rows);
        store_gates(row_span<const T>(space.gate_rows), stream, span);
      }
    store_writes(core.dgated_writes, call_.dk, stream, span, features());
    store_writes(core.dplain_writes, call_.dv, stream, span, value_features());
  }

 private:
  index_t features() const noexcept { return call_.forward.features(); }
  index_t value_features() const noexcept { return call_.forward.value_features(); }
  bool reverse() const noexcept { return call_.forward.reverse; }
  index_t pitch() const noexcept { return conflict_free_pitch<T>(features()); }

  /// States [D][E] of the caller lie transposed here.
  void load(const view<const T, 4>& from, const recurrence_stream& stream, T* to) const noexcept {
    std::fill_n(to, state_size(), T(0));
    if (!from) return;
    for (index_t d = 0; d < features(); ++d)
      for (index_t e = 0; e < value_features(); ++e)
        to[e * pitch() + d] = from(stream.sequence, stream.state_head, d, e);
  }

  void prepare(workspace& space, const recurrence_stream& stream, chunk_span span) const noexcept {
    space.gated.prepare(stream_rows(call_.forward.k, stream, stream.kv_head, span.first, reverse()), span.count,
                        gates(stream, span));
    space.core.prepare(stream_rows(call_.forward.v, stream, stream.kv_head, span.first, reverse()), span.count);
  }

  /// The gates of a vector of features of a token.
  auto gates(const recurrence_stream& stream, chunk_span span) const noexcept {
    if constexpr (Kind == gate_kind::feature) {
      return gate_rows<A>(stream_rows(call_.forward.feature_gates, stream, stream.kv_head, span.first, reverse()),
                          features());
    } else if constexpr (Kind == gate_kind::token) {
      const P first = gate_of(P(call_.forward.token_log_gate(stream, span.first)));
      return [this, stream, span, first](index_t t, index_t) {
        return call_.forward.constant() ? first : gate_of(P(call_.forward.token_log_gate(stream, span.first + t)));
      };
    } else {
      return [](index_t, index_t) { return P(T(1)); };
    }
  }

  /// Gradients by writes: those of states that share a kv head are added up, in the order of their heads.
  void store_writes(row_span<T> from, const view<S, 4>& to, const recurrence_stream& stream, chunk_span span,
                    index_t features) const noexcept {
    const auto rows = stream_rows(to, stream, stream.kv_head, span.first, reverse());
    if (!stream.first_of_kv_head)
      for (index_t t = 0; t < span.count; ++t)
        for_vectors<T, A>(features, [&](index_t i, int some) {
          (P::load_aligned(from[t] + i) + load_some<T, A>(rows[t] + i, some)).store_aligned(from[t] + i);
        });
    store_rows<A>(row_span<const T>(from), rows, span.count, features);
  }

  void store_gates(row_span<const T> rows, const recurrence_stream& stream, chunk_span span) const noexcept {
    if constexpr (Kind == gate_kind::feature) {
      store_rows<A>(rows, stream_rows(call_.dfeature_gates, stream, stream.kv_head, span.first, reverse()), span.count,
                    features());
    } else {
      for (index_t t = 0; t < span.count; ++t) {
        P sum(T(0));
        for_vectors<T, A>(features(), [&](index_t i, int some) { sum += load_some<T, A>(rows[t] + i, some); });
        if (call_.forward.constant())
          call_.dslopes(stream.sequence, stream.state_head) -= reduce_add(sum);
        else
          call_.dtoken_gates(stream.batch, stream.kv_head, call_.forward.row(stream, span.first + t)) = reduce_add(sum);
      }
    }
  }

  const linear_gradient_call<S>& call_;
};

}  // namespace detail
HEED_ARCH_END
