/// Rows for the gradients of linear attention with feature maps.
#pragma once

#include <heed/kernel/feature_rows.hpp>
#include <heed/kernel/linear_gradient.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
struct feature_gradient_call : linear_gradient_call<S, feature_call<S>> {
  /// What a normalised call gave.
  view<const S, 4> out;
  view<const accumulator_t<S>, 3> denominator;
};

/// For linear_backward_chunks: with weights w_ij and divisor den_i, the gradient by w_ij is u_i . [v_j, 1], where
/// u_i = [dout_i, -dout_i . out_i] / den_i.
template <class A, class S>
class feature_gradient_rows : public feature_rows<A, S> {
  using base = feature_rows<A, S>;

 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  using call_type = feature_gradient_call<S>;

  explicit feature_gradient_rows(const call_type& call) noexcept : base(call.forward), gradient_(call) {}

  /// Rows [begin, end) of what is made of a head's queries, and of scale u.
  HEED_NOINLINE void read(typename base::workspace& space, const recurrence_stream& stream, index_t head, index_t first,
                          index_t begin, index_t end, row_span<T> queries, row_span<T> upstream) const noexcept {
    const feature_call<S>& call = gradient_.forward;
    const index_range features{0, call.features()};
    const auto q = stream_rows(call.q, stream, head, first, false);
    const auto dout = stream_rows(gradient_.dout, stream, head, first, false);
    const auto out = stream_rows(gradient_.out, stream, head, first, false);
    const auto divisor = [&](index_t t) {
      return gradient_.denominator(stream.batch, head, stream.first_token + first + t);
    };
    if (call.shifted())
      // The logarithm of the divisor is as good a number to lose as the largest: it divides besides.
      for (index_t t = begin; t < end; ++t)
        make_rows<T, A>(q, t, t + 1, features, queries,
                        [&](index_t, index_t i, P x) { return exp(x + P::load(space.added[t] + i) - P(divisor(t))); });
    else
      map_rows<T, A>(call.map, q, begin, end, features.high, features, queries);
    for (index_t t = begin; t < end; ++t) {
      const bool divided = call.normalise && !call.shifted();
      const P factor(static_cast<T>(call.scale) / (divided ? divisor(t) : T(1)));
      P mean(T(0));
      for_vectors<T, A>(call.value_features(), [&](index_t i, int some) {
        const P x = factor * load_some<T, A>(dout[t] + i, some);
        if (call.normalise) mean = fma(x, load_some<T, A>(out[t] + i, some), mean);
        x.store_aligned(upstream[t] + i);
      });
      this->append(upstream[t], -reduce_add(mean));
    }
  }
  void differentiate_values(const recurrence_stream&, chunk_span, row_span<T>) const noexcept {}
  void differentiate_queries(typename base::workspace&, index_t begin, index_t end, row_span<const T> made,
                             row_span<T> gradients) const noexcept {
    differentiate_map<T, A>(gradient_.forward.map, made, begin, end, gradient_.forward.features(), gradients);
  }
  void differentiate_keys(typename base::workspace&, index_t count, row_span<const T> made,
                          row_span<T> gradients) const noexcept {
    differentiate_map<T, A>(gradient_.forward.map, made, 0, count, gradient_.forward.features(), gradients);
  }

 private:
  const call_type& gradient_;
};

/// The same call for queries [begin, end) alone.
template <class Call>
Call gradient_of_queries(Call call, index_t begin, index_t end) noexcept {
  const auto cut = [&](auto& t) {
    if (t) t = t.slice(2, begin, end);
  };
  cut(call.forward.q);
  cut(call.dout);
  cut(call.dq);
  cut(call.out);
  cut(call.denominator);
  call.forward.offset += begin;
  return call;
}

/// Calls f with what walks back over the chunks of a call.
template <class A, class S, class F>
void with_linear_gradients(const feature_gradient_call<S>& call, const F& f) {
  if (call.forward.map == feature_map::identity && !call.forward.normalise) {
    linear_gradient_call<S> plain{};
    plain.forward = call.forward;
    plain.dout = call.dout;
    plain.dq = call.dq;
    plain.dk = call.dk;
    plain.dv = call.dv;
    f(linear_backward_chunks<A, S, gate_kind::none>(plain));
  } else if (call.forward.shifted()) {
    f(linear_backward_chunks<A, S, gate_kind::feature, feature_gradient_rows<A, S>>(call));
  } else {
    f(linear_backward_chunks<A, S, gate_kind::none, feature_gradient_rows<A, S>>(call));
  }
}

}  // namespace detail
HEED_ARCH_END
