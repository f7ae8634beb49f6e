/// Rows of FAST: the features whose products are terms of the exponential series.
///
/// Of a row x they are 1, x_a / tau^1/2, and x_a x_b / tau for a <= b, times 2^-1/2 where a = b. They are made for a
/// chunk at a time, and never for pairs of tokens within it: those weights are had from the products of the rows.
#pragma once

#include <heed/core/fastmax_options.hpp>
#include <heed/kernel/linear_gradient.hpp>

#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
struct fastmax_call : linear_call<S> {
  using T = accumulator_t<S>;

  int p;
  double tau;
  fastmax_norm norm;
  double limit;
  bool centre;
  view<const T, 2> query_norms, key_norms;
  view<T, 3> denominator;

  index_t expanded() const noexcept { return fastmax_features(this->features(), p); }
};

/// The features of one row x, with zeros up to the end of the last vector.
template <class T, class A>
HEED_NOINLINE void expand_row(const T* x, index_t features, int p, T tau, T* to) noexcept {
  const T root = T(1) / std::sqrt(tau), half = std::sqrt(T(0.5));
  to[0] = T(1);
  for (index_t a = 0; a < features; ++a) to[1 + a] = x[a] * root;
  T* at = to + 1 + features;
  if (p == 2)
    for (index_t a = 0; a < features; ++a) {
      const T factor = x[a] / tau;
      at[0] = factor * x[a] * half;
      for (index_t b = 1; b < features - a; ++b) at[b] = factor * x[a + b];
      at += features - a;
    }
  for (T* const end = to + round_up(at - to, lanes<T, A>); at < end; ++at) *at = T(0);
}

/// gradient[a] = the gradient by x_a, from that by the features of x.
template <class T>
HEED_NOINLINE void contract_row(const T* x, index_t features, int p, T tau, const T* by_features,
                                T* gradient) noexcept {
  const T root = T(1) / std::sqrt(tau), twice_half = std::sqrt(T(2));
  for (index_t a = 0; a < features; ++a) gradient[a] = by_features[1 + a] * root;
  if (p != 2) return;
  const T* at = by_features + 1 + features;
  for (index_t a = 0; a < features; ++a) {
    const T factor = x[a] / tau;
    T sum = at[0] * twice_half * x[a];
    for (index_t b = 1; b < features - a; ++b) {
      sum += at[b] * x[a + b];
      gradient[a + b] += at[b] * factor;
    }
    gradient[a] += sum / tau;
    at += features - a;
  }
}

/// Rows after their norm, what they were multiplied by there, and their features.
template <class T>
struct fastmax_side {
  row_span<T> plain, expanded;
  T* factors;

  static fastmax_side take(scratch_cursor& memory, index_t tokens, index_t features, index_t expanded) noexcept {
    return {take_rows<T>(memory, tokens, features), take_rows<T>(memory, tokens, expanded), memory.take<T>(tokens)};
  }
  fastmax_side from(index_t row) const noexcept { return {plain.from(row), expanded.from(row), factors + row}; }
};

/// Rows for linear_forward_chunks.
template <class A, class S>
class fastmax_rows {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  using call_type = fastmax_call<S>;
  using side = fastmax_side<T>;

  explicit fastmax_rows(const fastmax_call<S>& call) noexcept : call_(call) {}

  struct workspace {
    workspace(const fastmax_rows& rows, scratch_cursor& memory, index_t tokens) noexcept
        : keys(rows.take_side(memory, tokens)),
          queries(rows.take_side(memory, tokens)),
          value_rows(take_rows<T>(memory, tokens, rows.columns())),
          sums(take_rows<T>(memory, tokens, rows.columns())),
          panels(take_panels<T, A>(memory, tokens, rows.call_.features())),
          row(take_rows<T>(memory, 1, rows.call_.features()).data),
          values(value_rows) {}

    side keys, queries;
    row_span<T> value_rows, sums;
    row_panels<T> panels;
    T* row;
    row_span<const T> values;
  };

  static constexpr bool weighs = true;
  index_t features() const noexcept { return call_.expanded(); }
  index_t columns() const noexcept { return call_.value_features() + 1; }
  index_t extra_numbers() const noexcept { return 0; }

  void load_state(const recurrence_stream& stream, T* state, index_t row_step, index_t column_step, T*) const noexcept {
    if (call_.initial_state)
      for (index_t f = 0; f < features(); ++f)
        for (index_t e = 0; e < columns(); ++e)
          state[f * row_step + e * column_step] = call_.initial_state(stream.sequence, stream.state_head, f, e);
  }
  void store_state(const recurrence_stream& stream, const T* state, index_t pitch) const noexcept {
    if (call_.final_state)
      for (index_t f = 0; f < features(); ++f)
        std::copy_n(state + f * pitch, columns(), &call_.final_state(stream.sequence, stream.state_head, f, 0));
  }
  void clear(const recurrence_stream& stream, index_t head, index_t i) const noexcept {
    std::fill_n(&call_.out(stream.batch, head, stream.first_token + i, 0), call_.value_features(), S(T(0)));
    if (call_.denominator) call_.denominator(stream.batch, head, stream.first_token + i) = T(0);
  }

  void prepare(workspace& space, const recurrence_stream& stream, chunk_span span, index_range,
               const T*) const noexcept {
    make(space.keys, stream_rows(call_.k, stream, stream.kv_head, span.first, false), 0, span.count,
         norm_of(call_.key_norms, stream, stream.kv_head));
    copy_values(stream, span, space.value_rows);
  }
  void advance(const workspace&, T*, index_range) const noexcept {}
  row_span<const T> keys(const workspace& space, const recurrence_stream&, chunk_span) const noexcept {
    return space.keys.expanded;
  }

  void prepare_reads(workspace&, const T*) const noexcept {}
  row_span<const T> queries(workspace& space, const recurrence_stream& stream, index_t head, index_t first,
                            index_t begin, index_t end) const noexcept {
    make(space.queries, stream_rows(call_.q, stream, head, first, false), begin, end,
         norm_of(call_.query_norms, stream, head));
    return space.queries.expanded;
  }
  void prepare_weights(workspace& space, index_t count) const noexcept {
    const P factor(static_cast<T>(1 / call_.tau));
    transpose_rows<T, A>(row_span<const T>(space.keys.plain), count, space.panels, [&](index_t) { return factor; });
  }
  void weigh(workspace& space, index_range rows, row_span<T> weights, prefetcher& ahead) const noexcept {
    lower_products<T, A>(row_span<const T>(space.queries.plain), space.panels, rows, weights, ahead);
    const P square(T(call_.p == 2 ? 0.5 : 0.0)), one(T(1));
    for (index_t t = rows.low; t < rows.high; ++t)
      for_vectors<T, A>(t + 1, [&](index_t j, int some) {
        const P s = P::load_aligned(weights[t] + j);
        fma(fma(square, s, one), s, one).store_aligned(weights[t] + j);
        for (int i = some; i < P::lanes; ++i) weights[t][j + i] = T(0);
      });
  }

  row_span<T> outputs(workspace& space, const recurrence_stream&, index_t, index_t) const noexcept {
    return space.sums;
  }
  void finish_outputs(workspace& space, const recurrence_stream& stream, index_t head, index_t first, index_t begin,
                      index_t end) const noexcept {
    divide(space.sums, stream, head, first, begin, end);
  }

 protected:
  void divide(row_span<const T> sums, const recurrence_stream& stream, index_t head, index_t first, index_t begin,
              index_t end) const noexcept {
    const auto out = stream_rows(call_.out, stream, head, first, false);
    for (index_t t = begin; t < end; ++t) {
      const T* const row = sums[t];
      const T sum = row[call_.value_features()];
      const P factor(inverse(sum));
      if (call_.denominator) call_.denominator(stream.batch, head, stream.first_token + first + t) = sum;
      for_vectors<T, A>(call_.value_features(),
                        [&](index_t i, int some) { store_some(out[t] + i, P::load_aligned(row + i) * factor, some); });
    }
  }

 protected:
  side take_side(scratch_cursor& memory, index_t tokens) const noexcept {
    return side::take(memory, tokens, call_.features(), features());
  }

  /// Weights that add up to 0 give 0.
  static T inverse(T sum) noexcept { return sum == T(0) ? T(0) : T(1) / sum; }

  T norm_of(const view<const T, 2>& norms, const recurrence_stream& stream, index_t head) const noexcept {
    return call_.norm == fastmax_norm::maxnorm ? norms(stream.batch, head) : T(1);
  }

  /// Values with a column of ones.
  void copy_values(const recurrence_stream& stream, chunk_span span, row_span<T> to) const noexcept {
    copy_rows<T, A>(stream_rows(call_.v, stream, stream.kv_head, span.first, false), 0, span.count,
                    call_.value_features(), to);
    for (index_t t = 0; t < span.count; ++t) append(to[t], T(1));
  }

  /// Puts a number behind those of a row's values.
  void append(T* row, T last) const noexcept {
    const index_t at = call_.value_features();
    if (at % P::lanes == 0) P(T(0)).store_aligned(row + at);
    row[at] = last;
  }

  /// Rows [begin, end) after their norm.
  HEED_NOINLINE void normalise(const side& to, row_span<const S> from, index_t begin, index_t end,
                               T norm) const noexcept {
    const index_t D = call_.features();
    copy_rows<T, A>(from, begin, end, D, to.plain);
    for (index_t t = begin; t < end; ++t) {
      T* const x = to.plain[t];
      T mean = T(0), squares = T(0);
      if (takes_mean()) {
        for (index_t d = 0; d < D; ++d) mean += x[d];
        mean /= T(D);
      }
      if (call_.norm == fastmax_norm::standardize)
        for (index_t d = 0; d < D; ++d) squares += (x[d] - mean) * (x[d] - mean);
      const T factor = call_.norm == fastmax_norm::standardize ? T(1) / std::sqrt(squares / T(D) + T(1e-6))
                       : call_.norm == fastmax_norm::maxnorm   ? static_cast<T>(call_.limit) / norm
                                                               : T(1);
      for (index_t d = 0; d < D; ++d) x[d] = (x[d] - mean) * factor;
      to.factors[t] = factor;
    }
  }
  /// The same, and their features.
  void make(const side& to, row_span<const S> from, index_t begin, index_t end, T norm) const noexcept {
    normalise(to, from, begin, end, norm);
    for (index_t t = begin; t < end; ++t)
      expand_row<T, A>(to.plain[t], call_.features(), call_.p, static_cast<T>(call_.tau), to.expanded[t]);
  }
  bool takes_mean() const noexcept {
    return call_.norm == fastmax_norm::standardize || (call_.norm == fastmax_norm::maxnorm && call_.centre);
  }

  const fastmax_call<S>& call_;
};

template <class S>
struct fastmax_gradient_call : linear_gradient_call<S, fastmax_call<S>> {
  view<const S, 4> out;
  view<const accumulator_t<S>, 3> denominator;
};

/// Rows for linear_backward_chunks.
template <class A, class S>
class fastmax_gradient_rows : public fastmax_rows<A, S> {
  using base = fastmax_rows<A, S>;

 public:
  using typename base::side;
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  using call_type = fastmax_gradient_call<S>;

  explicit fastmax_gradient_rows(const call_type& call) noexcept : base(call.forward), gradient_(call) {}

  void read(typename base::workspace& space, const recurrence_stream& stream, index_t head, index_t first,
            index_t begin, index_t end, row_span<T> queries, row_span<T> upstream) const noexcept {
    const row_span<const T> expanded = this->queries(space, stream, head, first, begin, end);
    copy_rows<T, A>(expanded, begin, end, this->features(), queries);
    make_upstream(stream, head, first, begin, end, upstream);
  }
  void differentiate_queries(typename base::workspace& space, index_t begin, index_t end, row_span<const T>,
                             row_span<T> gradients) const noexcept {
    differentiate(space.queries, space.row, begin, end, gradients);
  }
  void differentiate_values(const recurrence_stream&, chunk_span, row_span<T>) const noexcept {}
  void differentiate_keys(typename base::workspace& space, index_t count, row_span<const T>,
                          row_span<T> gradients) const noexcept {
    differentiate(space.keys, space.row, 0, count, gradients);
  }

 protected:
  /// The gradient by weight w_ij is u_i . [v_j, 1], with u_i = [dout_i, -dout_i . out_i] / sum_j w_ij.
  void make_upstream(const recurrence_stream& stream, index_t head, index_t first, index_t begin, index_t end,
                     row_span<T> upstream) const noexcept {
    const auto dout = stream_rows(gradient_.dout, stream, head, first, false);
    const auto out = stream_rows(gradient_.out, stream, head, first, false);
    for (index_t t = begin; t < end; ++t) {
      const P factor(base::inverse(gradient_.denominator(stream.batch, head, stream.first_token + first + t)));
      P mean(T(0));
      for_vectors<T, A>(gradient_.forward.value_features(), [&](index_t i, int some) {
        const P x = factor * load_some<T, A>(dout[t] + i, some);
        mean = fma(x, load_some<T, A>(out[t] + i, some), mean);
        x.store_aligned(upstream[t] + i);
      });
      this->append(upstream[t], -reduce_add(mean));
    }
  }

  /// From the gradient by row t after its norm to that by the row itself.
  void through_norm(const side& of, index_t t, const T* by_normal, T* gradient) const noexcept {
    const fastmax_call<S>& call = gradient_.forward;
    const index_t D = call.features();
    const T* const x = of.plain[t];
    T mean = T(0), along = T(0);
    for (index_t d = 0; d < D; ++d) {
      if (this->takes_mean()) mean += by_normal[d] / T(D);
      if (call.norm == fastmax_norm::standardize) along += by_normal[d] * x[d] / T(D);
    }
    for (index_t d = 0; d < D; ++d) gradient[d] = of.factors[t] * (by_normal[d] - mean - x[d] * along);
  }

  const call_type& gradient_;

 private:
  /// From gradients by features to those by the rows that they were made of.
  void differentiate(const side& of, T* row, index_t begin, index_t end, row_span<T> gradients) const noexcept {
    const fastmax_call<S>& call = gradient_.forward;
    for (index_t t = begin; t < end; ++t) {
      contract_row(of.plain[t], call.features(), call.p, static_cast<T>(call.tau), gradients[t], row);
      through_norm(of, t, row, gradients[t]);
    }
  }
};

}  // namespace detail
HEED_ARCH_END
