/// Rows of a state space model in its dual form: values times the steps of their tokens, and outputs with a skip.
#pragma once

#include <heed/kernel/linear_gradient.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Rows for linear_forward_chunks.
template <class A, class S>
class ssd_rows : public tensor_rows<A, S> {
 public:
  using base = tensor_rows<A, S>;
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  explicit ssd_rows(const linear_call<S>& call) noexcept : base(call), call_(call) {}

  void prepare(typename base::workspace& space, const recurrence_stream& stream, chunk_span span, index_range,
               const T*) const noexcept {
    copy_rows<T, A>(head_rows(call_.v, stream, span.first), 0, span.count, this->columns(), space.value_copies,
                    [&](index_t t, index_t, P x) { return x * P(call_.step(stream, span.first + t)); });
    space.values = space.value_copies;
  }
  void finish_outputs(typename base::workspace& space, const recurrence_stream& stream, index_t head, index_t first,
                      index_t begin, index_t end) const noexcept {
    if (call_.skips) {
      const P skip(call_.skips[head]);
      const row_span<T> sums = this->outputs(space, stream, head, first);
      const auto values = head_rows(call_.v, stream, first);
      for (index_t t = begin; t < end; ++t)
        for_vectors<T, A>(this->columns(), [&](index_t i, int some) {
          fma(skip, load_some<T, A>(values[t] + i, some), P::load(sums[t] + i)).store(sums[t] + i);
        });
    }
    base::finish_outputs(space, stream, head, first, begin, end);
  }

 protected:
  /// Rows that belong to the head of a stream alone.
  template <class U>
  row_span<U> head_rows(const view<U, 4>& tensor, const recurrence_stream& stream, index_t first) const noexcept {
    return stream_rows(tensor, stream, stream.state_head, first, call_.reverse);
  }

 private:
  const linear_call<S>& call_;
};

template <class S>
struct ssd_gradient_call : linear_gradient_call<S> {
  /// By the skips of each sequence: [B,H], or [S,H] of packed sequences; 0 to begin with.
  view<accumulator_t<S>, 2> dskips{};
};

/// Rows for linear_backward_chunks, whose dtoken_gates become the gradients by steps.
template <class A, class S>
class ssd_gradient_rows : public ssd_rows<A, S> {
 public:
  using base = ssd_rows<A, S>;
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  using call_type = ssd_gradient_call<S>;

  explicit ssd_gradient_rows(const call_type& call) noexcept : base(call.forward), call_(call) {}

  void read(typename base::workspace&, const recurrence_stream& stream, index_t head, index_t first, index_t begin,
            index_t end, row_span<T> queries, row_span<T> upstream) const noexcept {
    const P scale(static_cast<T>(call_.forward.scale));
    const auto& call = call_.forward;
    copy_rows<T, A>(stream_rows(call.q, stream, call.query_head(head), first, call.reverse), begin, end,
                    call.features(), queries);
    copy_rows<T, A>(this->head_rows(call_.dout, stream, first), begin, end, call.value_features(), upstream,
                    [&](index_t, index_t, P x) { return x * scale; });
  }
  void differentiate_queries(typename base::workspace&, index_t, index_t, row_span<const T>,
                             row_span<T>) const noexcept {}
  void differentiate_keys(typename base::workspace&, index_t, row_span<const T>, row_span<T>) const noexcept {}

  /// Gradients by values that were multiplied by steps become those by the values.
  void differentiate_values(const recurrence_stream& stream, chunk_span span, row_span<T> gradients) const noexcept {
    const auto& call = call_.forward;
    const T slope = call.slope_sign * call.slopes[stream.state_head];
    const P skip(call.skips ? call.skips[stream.state_head] : T(0));
    const auto values = this->head_rows(call.v, stream, span.first);
    const auto upstream = this->head_rows(call_.dout, stream, span.first);
    P skipped(T(0));
    for (index_t t = 0; t < span.count; ++t) {
      const P step(call.step(stream, span.first + t));
      P stepped(T(0));
      for_vectors<T, A>(call.value_features(), [&](index_t i, int some) {
        const P value = load_some<T, A>(values[t] + i, some), y = load_some<T, A>(upstream[t] + i, some);
        const P gradient = load_some<T, A>(gradients[t] + i, some);
        stepped = fma(value, gradient, stepped);
        skipped = fma(value, y, skipped);
        fma(skip, y, step * gradient).store_aligned(gradients[t] + i);
      });
      T& dstep = call_.dtoken_gates(stream.batch, stream.state_head, call.row(stream, span.first + t));
      dstep = slope * dstep + reduce_add(stepped);
    }
    if (call_.dskips) call_.dskips(stream.sequence, stream.state_head) += reduce_add(skipped);
  }

 private:
  const call_type& call_;
};

}  // namespace detail
HEED_ARCH_END
