/// Tokens of linear attention with feature maps.
#pragma once

#include <heed/kernel/feature_rows.hpp>
#include <heed/kernel/recurrence_step_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// For recurrence_step_run. Sums lie beside the state, so they are read on their own.
template <class A, class S>
class feature_steps {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  feature_steps(const feature_call<S>& call, const view<T, 4>& state, const view<T, 3>& sum) noexcept
      : call_(call), state_(state), sum_(sum) {}

  struct workspace {
    workspace(const feature_steps& op, scratch_cursor& memory) noexcept
        : key(take_rows<T>(memory, 1, op.call_.features())),
          value(take_rows<T>(memory, 1, op.call_.value_features())),
          reads(take_rows<T>(memory, op.heads(), op.call_.features())),
          sums(take_rows<T>(memory, op.heads(), op.call_.value_features())),
          divisors(memory.take<T>(op.heads())) {}
    row_span<T> key, value, reads, sums;
    T* divisors;
  };

  stream_numbering streams() const noexcept { return call_.streams(); }

  void step(workspace& space, const recurrence_stream& stream) const noexcept {
    const index_range features{0, call_.features()};
    const view<T, 2> state = state_[stream.sequence][stream.state_head];
    for (index_t t = 0; t < stream.tokens; ++t) {
      map_rows<T, A>(call_.map, stream_rows(call_.k, stream, stream.kv_head, t, false), 0, 1, features.high, features,
                     space.key);
      load_row<T, A>(&call_.v(stream.batch, stream.kv_head, t, 0), call_.value_features(), space.value.data);
      if (call_.normalise)
        for (index_t d = 0; d < features.high; ++d) sum_(stream.sequence, stream.state_head, d) += space.key.data[d];
      for (index_t h = 0; h < stream.heads; ++h) space.divisors[h] = make_read(space, stream, t, h);
      write_and_read<gate_side::none, T, A>(state.data(), state.stride(0), features.high, call_.value_features(),
                                            {space.key.data, space.value.data, nullptr, nullptr}, stream.heads,
                                            space.reads.data, space.reads.stride, space.sums.data, space.sums.stride);
      for (index_t h = 0; h < stream.heads; ++h) {
        const P divisor(space.divisors[h]);
        S* const out = &call_.out(stream.batch, stream.first_head + h, t, 0);
        for_vectors<T, A>(call_.value_features(), [&](index_t i, int some) {
          store_some(out + i, P::load_aligned(space.sums[h] + i) / divisor, some);
        });
      }
    }
  }

 private:
  index_t heads() const noexcept { return streams().states == 0 ? 0 : call_.q.extent(1) / streams().states; }

  /// The features of a query, times the scale, and what its output is divided by.
  T make_read(workspace& space, const recurrence_stream& stream, index_t t, index_t h) const noexcept {
    const index_range features{0, call_.features()};
    const auto query = stream_rows(call_.q, stream, stream.first_head + h, t, false);
    const row_span<T> read = space.reads.from(h);
    T eps = static_cast<T>(call_.eps);
    if (call_.shifted()) {
      const T top =
          largest_of<T, A>(features.high, [&](index_t i, int some) { return load_some<T, A>(query[0] + i, some); });
      make_rows<T, A>(query, 0, 1, features, read, [&](index_t, index_t, P x) { return exp(x - P(top)); });
      if (eps > T(0)) eps *= std::exp(-top);
    } else {
      map_rows<T, A>(call_.map, query, 0, 1, features.high, features, read);
    }
    T divisor = T(0);
    for (index_t d = 0; d < features.high; ++d) {
      read.data[d] *= static_cast<T>(call_.scale);
      if (call_.normalise) divisor += read.data[d] * sum_(stream.sequence, stream.state_head, d);
    }
    return call_.normalise ? divisor + eps : T(1);
  }

  const feature_call<S>& call_;
  view<T, 4> state_;
  view<T, 3> sum_;
};

}  // namespace detail
HEED_ARCH_END
