/// Tokens of FAST.
#pragma once

#include <heed/kernel/fastmax_rows.hpp>
#include <heed/kernel/recurrence_step_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// For recurrence_step_run.
template <class A, class S>
class fastmax_steps : fastmax_rows<A, S> {
  using base = fastmax_rows<A, S>;
  using base::call_;

 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  fastmax_steps(const fastmax_call<S>& call, const view<T, 4>& state) noexcept : base(call), state_(state) {}

  struct workspace {
    workspace(const fastmax_steps& op, scratch_cursor& memory) noexcept
        : key(op.take_side(memory, 1)),
          query(op.take_side(memory, op.heads())),
          value(take_rows<T>(memory, 1, op.columns()).data),
          sums(take_rows<T>(memory, op.heads(), op.columns())) {}
    typename base::side key, query;
    T* value;
    row_span<T> sums;
  };

  stream_numbering streams() const noexcept { return call_.streams(); }

  void step(workspace& space, const recurrence_stream& stream) const noexcept {
    const view<T, 2> state = state_[stream.sequence][stream.state_head];
    const index_t value_features = call_.value_features();
    const row_span<T> reads = space.query.expanded;
    for (index_t t = 0; t < stream.tokens; ++t) {
      this->make(space.key, stream_rows(call_.k, stream, stream.kv_head, t, false), 0, 1,
                 this->norm_of(call_.key_norms, stream, stream.kv_head));
      load_row<T, A>(&call_.v(stream.batch, stream.kv_head, t, 0), value_features, space.value);
      this->append(space.value, T(1));
      for (index_t h = 0; h < stream.heads; ++h) {
        const index_t head = stream.first_head + h;
        this->make(space.query.from(h), stream_rows(call_.q, stream, head, t, false), 0, 1,
                   this->norm_of(call_.query_norms, stream, head));
      }
      write_and_read<gate_side::none, T, A>(state.data(), state.stride(0), this->features(), this->columns(),
                                            {space.key.expanded.data, space.value, nullptr, nullptr}, stream.heads,
                                            reads.data, reads.stride, space.sums.data, space.sums.stride);
      for (index_t h = 0; h < stream.heads; ++h) {
        const T* const row = space.sums[h];
        const P factor(base::inverse(row[value_features]));
        S* const out = &call_.out(stream.batch, stream.first_head + h, t, 0);
        for_vectors<T, A>(value_features,
                          [&](index_t i, int some) { store_some(out + i, P::load_aligned(row + i) * factor, some); });
      }
    }
  }

 private:
  index_t heads() const noexcept { return streams().states == 0 ? 0 : call_.q.extent(1) / streams().states; }

  view<T, 4> state_;
};

}  // namespace detail
HEED_ARCH_END
