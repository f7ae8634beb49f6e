/// Rows of linear attention: features of queries and keys, values with a column of ones, outputs that are divided.
#pragma once

#include <heed/core/linear_options.hpp>
#include <heed/kernel/linear_chunks.hpp>
#include <heed/simd/math.hpp>

#include <cmath>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
struct feature_call : linear_call<S> {
  using T = accumulator_t<S>;

  feature_map map;
  bool normalise;
  double eps;
  view<const T, 3> initial_sum;
  view<T, 3> final_sum;
  view<T, 3> denominator;

  /// Columns of a state: those of values, then the sum of the keys' features.
  index_t columns() const noexcept { return this->value_features() + normalise; }
  /// Whether features are made from numbers less the largest ones so far, whose state then fades as gates would make
  /// it. A query adds what its keys lost, then loses its own largest number: one of its products is 1 at least.
  bool shifted() const noexcept { return normalise && map == feature_map::exp; }
};

/// Stores a vector with zeros behind its first `count` numbers.
template <class T, class A>
HEED_INLINE void store_padded(T* to, pack<T, A> value, int count) noexcept {
  value.store_aligned(to);
  for (int i = count; i < lanes<T, A>; ++i) to[i] = T(0);
}

/// to[t][i] = f(t, i, from[t][i]) for some rows and features, vector by vector, with zeros up to the end of the last.
template <class T, class A, class S, class F>
HEED_NOINLINE void make_rows(row_span<const S> from, index_t begin, index_t end, index_range features, row_span<T> to,
                             const F& f) noexcept {
  for (index_t t = begin; t < end; ++t)
    for (index_t i = features.low; i < features.high; i += lanes<T, A>) {
      const int some = static_cast<int>(std::min<index_t>(lanes<T, A>, features.high - i));
      store_padded(to[t] + i, pack<T, A>(f(t, i, load_some<T, A>(from[t] + i, some))), some);
    }
}

/// Calls visit(f) with f(t, i, x), the map of single features.
template <class T, class A, class Visit>
HEED_INLINE void with_feature_map(feature_map map, const Visit& visit) noexcept {
  using P = pack<T, A>;
  switch (map) {
    case feature_map::elu_plus_one:
      return visit([](index_t, index_t, P x) { return select(x > P(T(0)), x + P(T(1)), exp(min(P(T(0)), x))); });
    case feature_map::relu:
      return visit([](index_t, index_t, P x) { return max(P(T(0)), x); });
    case feature_map::exp:
      return visit([](index_t, index_t, P x) { return exp(x); });
    default:
      return visit([](index_t, index_t, P x) { return x; });
  }
}

/// The largest of f(i, some) over a row, a vector at a time; lanes from `some` on do not count.
template <class T, class A, class F>
HEED_INLINE T largest_of(index_t features, const F& f) noexcept {
  using P = pack<T, A>;
  P top(std::numeric_limits<T>::lowest());
  for_vectors<T, A>(features, [&](index_t i, int some) {
    alignas(64) T each[P::lanes];
    f(i, some).store_aligned(each);
    for (int l = some; l < P::lanes; ++l) each[l] = std::numeric_limits<T>::lowest();
    top = max(top, P::load_aligned(each));
  });
  return reduce_max(top);
}

/// Softmax of the features of rows.
template <class T, class A, class S>
HEED_NOINLINE void softmax_rows_of(row_span<const S> from, index_t begin, index_t end, index_t features,
                                   row_span<T> to) noexcept {
  using P = pack<T, A>;
  for (index_t t = begin; t < end; ++t) {
    const P top(largest_of<T, A>(features, [&](index_t i, int some) { return load_some<T, A>(from[t] + i, some); }));
    P sum(T(0));
    make_rows<T, A>(from, t, t + 1, {0, features}, to, [&](index_t, index_t, P x) { return exp(x - top); });
    for_vectors<T, A>(features, [&](index_t i, int) { sum += P::load_aligned(to[t] + i); });
    const P factor(T(1) / reduce_add(sum));
    for_vectors<T, A>(features,
                      [&](index_t i, int) { (P::load_aligned(to[t] + i) * factor).store_aligned(to[t] + i); });
  }
}

/// Features of rows.
template <class T, class A, class S>
void map_rows(feature_map map, row_span<const S> from, index_t begin, index_t end, index_t all, index_range features,
              row_span<T> to) noexcept {
  if (map == feature_map::softmax) return softmax_rows_of<T, A>(from, begin, end, all, to);
  with_feature_map<T, A>(map, [&](const auto& f) { make_rows<T, A>(from, begin, end, features, to, f); });
}

/// to[t][i] *= slope(y, to[t][i]) for rows y of features, where slope is what the map's derivative makes of its value.
template <class T, class A, class F>
HEED_INLINE void scale_by_slopes(row_span<const T> y, index_t begin, index_t end, index_t features, row_span<T> to,
                                 const F& slope) noexcept {
  using P = pack<T, A>;
  for (index_t t = begin; t < end; ++t)
    for_vectors<T, A>(features, [&](index_t i, int) {
      (P::load_aligned(to[t] + i) * slope(P::load_aligned(y[t] + i))).store_aligned(to[t] + i);
    });
}

/// Gradients by rows x, from those by their features y.
template <class T, class A>
HEED_NOINLINE void differentiate_map(feature_map map, row_span<const T> y, index_t begin, index_t end, index_t features,
                                     row_span<T> gradients) noexcept {
  using P = pack<T, A>;
  const auto by = [&](const auto& slope) { scale_by_slopes<T, A>(y, begin, end, features, gradients, slope); };
  switch (map) {
    case feature_map::identity:
      return;
    case feature_map::elu_plus_one:
      return by([](P x) { return min(P(T(1)), x); });
    case feature_map::relu:
      return by([](P x) { return select(x > P(T(0)), P(T(1)), P(T(0))); });
    case feature_map::exp:
      return by([](P x) { return x; });
    case feature_map::softmax:
      break;
  }
  for (index_t t = begin; t < end; ++t) {
    P sum(T(0));
    for_vectors<T, A>(features, [&](index_t i, int) {
      sum = fma(P::load_aligned(y[t] + i), P::load_aligned(gradients[t] + i), sum);
    });
    const P mean(reduce_add(sum));
    for_vectors<T, A>(features, [&](index_t i, int) {
      (P::load_aligned(y[t] + i) * (P::load_aligned(gradients[t] + i) - mean)).store_aligned(gradients[t] + i);
    });
  }
}

/// What keys lose, and how much the state fades from token to token, where features are shifted.
template <class T>
struct key_shifts {
  /// [t][d]: the largest number of feature d up to key t.
  row_span<T> largest;
  /// [t][d]: log of what the state is multiplied by.
  row_span<T> log_gates;

  key_shifts() = default;
  key_shifts(scratch_cursor& memory, index_t tokens, index_t features) noexcept
      : largest(take_rows<T>(memory, tokens, features)), log_gates(take_rows<T>(memory, tokens, features)) {}

  static constexpr T none = std::numeric_limits<T>::lowest();

  /// From the largest numbers before the first key; features of the keys.
  template <class A, class S>
  HEED_NOINLINE void make(row_span<const S> keys, index_t count, index_range features, const T* before,
                          row_span<T> to) const noexcept {
    using P = pack<T, A>;
    for (index_t i = features.low; i < features.high; i += P::lanes) {
      const int some = static_cast<int>(std::min<index_t>(P::lanes, features.high - i));
      P top = P::load(before + i);
      for (index_t t = 0; t < count; ++t) {
        const P x = load_some<T, A>(keys[t] + i, some), raised = max(top, x);
        select(top == P(none), P(T(0)), top - raised).store_aligned(log_gates[t] + i);
        raised.store_aligned(largest[t] + i);
        store_padded(to[t] + i, exp(x - raised), some);
        top = raised;
      }
    }
  }
};

/// Rows for linear_forward_chunks.
template <class A, class S>
class feature_rows {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  using call_type = feature_call<S>;

  explicit feature_rows(const feature_call<S>& call) noexcept : call_(call) {}

  struct workspace {
    workspace(const feature_rows& rows, scratch_cursor& memory, index_t tokens) noexcept
        : keys(take_rows<T>(memory, tokens, rows.call_.features())),
          queries(take_rows<T>(memory, tokens, rows.call_.features())),
          value_rows(take_rows<T>(memory, tokens, rows.columns())),
          sums(take_rows<T>(memory, tokens, rows.columns())),
          values(value_rows) {
      if (!rows.call_.shifted()) return;
      shifts = key_shifts<T>(memory, tokens, rows.call_.features());
      lost = memory.take<T>(tokens);
    }
    row_span<T> keys, queries, value_rows, sums;
    row_span<const T> values;
    key_shifts<T> shifts;
    /// What keys lost, by position of a query; what queries lost.
    row_span<const T> added;
    T* lost = nullptr;
    index_t count = 0;
  };

  static constexpr bool weighs = false;
  index_t features() const noexcept { return call_.features(); }
  index_t columns() const noexcept { return call_.columns(); }
  index_t extra_numbers() const noexcept {
    return call_.shifted() ? round_up(call_.features(), cache_line / index_t(sizeof(T))) : 0;
  }

  void load_state(const recurrence_stream& stream, T* state, index_t row_step, index_t column_step,
                  T* largest) const noexcept {
    if (call_.shifted()) std::fill_n(largest, extra_numbers(), key_shifts<T>::none);
    if (!call_.initial_state) return;
    for (index_t d = 0; d < call_.features(); ++d) {
      T* const row = state + d * row_step;
      for (index_t e = 0; e < call_.value_features(); ++e)
        row[e * column_step] = call_.initial_state(stream.sequence, stream.state_head, d, e);
      if (!call_.normalise) continue;
      const T sum = call_.initial_sum(stream.sequence, stream.state_head, d);
      row[call_.value_features() * column_step] = sum;
      if (!call_.shifted()) continue;
      // As if the sum were that of one key.
      largest[d] = sum == T(0) ? key_shifts<T>::none : std::log(sum);
      for (index_t e = 0; e < columns(); ++e) row[e * column_step] /= sum == T(0) ? T(1) : sum;
    }
  }
  void store_state(const recurrence_stream& stream, const T* state, index_t pitch) const noexcept {
    const T* const largest = state + call_.features() * pitch;
    for (index_t d = 0; d < call_.features(); ++d) {
      const T* const row = state + d * pitch;
      const T factor = call_.shifted() ? std::exp(largest[d]) : T(1);
      if (call_.final_state)
        for (index_t e = 0; e < call_.value_features(); ++e)
          call_.final_state(stream.sequence, stream.state_head, d, e) = factor * row[e];
      if (call_.final_sum)
        call_.final_sum(stream.sequence, stream.state_head, d) = factor * row[call_.value_features()];
    }
  }
  void clear(const recurrence_stream& stream, index_t head, index_t i) const noexcept {
    std::fill_n(&call_.out(stream.batch, head, stream.first_token + i, 0), call_.value_features(), S(T(0)));
    if (call_.denominator)
      call_.denominator(stream.batch, head, stream.first_token + i) =
          call_.shifted() ? -std::numeric_limits<T>::infinity() : T(0);
  }

  void prepare(workspace& space, const recurrence_stream& stream, chunk_span span, index_range features,
               const T* largest) const noexcept {
    space.count = span.count;
    const auto keys = stream_rows(call_.k, stream, stream.kv_head, span.first, false);
    if (call_.shifted()) {
      space.shifts.template make<A>(keys, span.count, features, largest, space.keys);
      space.added = space.shifts.largest;
    } else {
      map_rows<T, A>(call_.map, keys, 0, span.count, call_.features(), features, space.keys);
    }
    copy_with_ones(stream_rows(call_.v, stream, stream.kv_head, span.first, false), span.count, space.value_rows);
  }
  void advance(const workspace& space, T* largest, index_range features) const noexcept {
    if (!call_.shifted()) return;
    std::copy(space.shifts.largest[space.count - 1] + features.low,
              space.shifts.largest[space.count - 1] + features.high, largest + features.low);
  }
  row_span<const T> keys(const workspace& space, const recurrence_stream&, chunk_span) const noexcept {
    return space.keys;
  }
  row_span<const T> log_gates(const workspace& space, const recurrence_stream&, chunk_span) const noexcept {
    return space.shifts.log_gates;
  }

  void prepare_reads(workspace& space, const T* largest) const noexcept { space.added = {largest, 0}; }
  row_span<const T> queries(workspace& space, const recurrence_stream& stream, index_t head, index_t first,
                            index_t begin, index_t end) const noexcept {
    const auto queries = stream_rows(call_.q, stream, head, first, false);
    if (call_.shifted())
      shift(queries, begin, end, space);
    else
      map_rows<T, A>(call_.map, queries, begin, end, call_.features(), {0, call_.features()}, space.queries);
    return space.queries;
  }
  row_span<T> outputs(workspace& space, const recurrence_stream&, index_t, index_t) const noexcept {
    return space.sums;
  }
  HEED_NOINLINE void finish_outputs(workspace& space, const recurrence_stream& stream, index_t head, index_t first,
                                    index_t begin, index_t end) const noexcept {
    const auto out = stream_rows(call_.out, stream, head, first, false);
    for (index_t t = begin; t < end; ++t) {
      const T* const row = space.sums[t];
      T factor = T(1);
      if (call_.normalise) {
        const T sum = row[call_.value_features()], eps = static_cast<T>(call_.eps);
        // No eps is none, however small the sum was made.
        factor = T(1) / (sum + (call_.shifted() && eps > T(0) ? eps * std::exp(-space.lost[t]) : eps));
        if (call_.denominator)
          call_.denominator(stream.batch, head, stream.first_token + first + t) =
              call_.shifted() ? log_of_sum(space.lost[t] + std::log(sum), std::log(eps)) : sum + eps;
      }
      for_vectors<T, A>(call_.value_features(), [&](index_t i, int some) {
        store_some(out[t] + i, P::load_aligned(row + i) * P(factor), some);
      });
    }
  }

 protected:
  /// Puts a number behind those of a row's values, if sums are kept beside them.
  void append(T* row, T last) const noexcept {
    if (!call_.normalise) return;
    const index_t at = call_.value_features();
    if (at % P::lanes == 0) P(T(0)).store_aligned(row + at);
    row[at] = last;
  }

  const feature_call<S>& call_;

 private:
  /// log(e^a + e^b).
  static T log_of_sum(T a, T b) noexcept {
    const T top = std::max(a, b);
    return top + std::log1p(std::exp(std::min(a, b) - top));
  }

  void copy_with_ones(row_span<const S> values, index_t count, row_span<T> to) const noexcept {
    copy_rows<T, A>(values, 0, count, call_.value_features(), to);
    for (index_t t = 0; t < count; ++t) append(to[t], T(1));
  }

  void shift(row_span<const S> queries, index_t begin, index_t end, workspace& space) const noexcept {
    const auto raised = [&](index_t t, index_t i, P x) { return x + P::load(space.added[t] + i); };
    for (index_t t = begin; t < end; ++t) {
      const T top = largest_of<T, A>(
          call_.features(), [&](index_t i, int some) { return raised(t, i, load_some<T, A>(queries[t] + i, some)); });
      space.lost[t] = top;
      make_rows<T, A>(queries, t, t + 1, {0, call_.features()}, space.queries,
                      [&](index_t, index_t i, P x) { return exp(raised(t, i, x) - P(top)); });
    }
  }
};

}  // namespace detail
HEED_ARCH_END
