/// Forward pass of the recurrence R_t = a_t R_{t-1} + k_t v_t^T, o_t = scale R_t^T q_t, chunk by chunk.
#pragma once

#include <heed/kernel/chunk_decay.hpp>
#include <heed/kernel/recurrence_streams.hpp>
#include <heed/kernel/token_decay.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What multiplies the state at a token: nothing, one number, or one number a key feature.
enum class gate_kind { none, token, feature };

template <class S>
struct linear_call {
  using T = accumulator_t<S>;
  view<const S, 4> q, k, v;
  view<S, 4> out;
  /// Log gates: [B,G,M,D], or [B,G,M], or slope_sign slopes [H] of query heads, whose states are their own then.
  view<const T, 4> feature_gates;
  view<const T, 3> token_gates;
  view<const T, 1> slopes;
  view<const T, 4> initial_state;
  view<T, 4> final_state;
  sequence_offsets cu;
  bool reverse;
  double scale;
  index_t chunk;
  /// Position of query 0 among the keys.
  index_t offset;
  T slope_sign = T(-1);
  /// [B,H,M]: what a token multiplies the slope of its head by. Default 1.
  view<const T, 3> steps{};
  /// [H]: what outputs get of the values of their own token besides. Default 0.
  view<const T, 1> skips{};

  index_t features() const noexcept { return k.extent(3); }
  index_t value_features() const noexcept { return v.extent(3); }
  /// The row of a tensor that token `t` of a stream has.
  index_t row(const recurrence_stream& stream, index_t t) const noexcept {
    return stream.first_token + (reverse ? stream.tokens - 1 - t : t);
  }
  /// Whether query heads have slopes, and all tokens of a head the same gate.
  bool sloped() const noexcept { return slopes.extent(0) > 0; }
  bool constant() const noexcept { return sloped() && steps.extent(1) == 0; }
  T step(const recurrence_stream& stream, index_t t) const noexcept {
    return steps.extent(1) > 0 ? steps(stream.batch, stream.state_head, row(stream, t)) : T(1);
  }
  T token_log_gate(const recurrence_stream& stream, index_t t) const noexcept {
    if (sloped()) return slope_sign * slopes[stream.state_head] * step(stream, t);
    return token_gates(stream.batch, stream.kv_head, row(stream, t));
  }
  /// Query heads may share rows of q, and states of a kv head have values of their own.
  index_t heads() const noexcept { return sloped() ? slopes.extent(0) : q.extent(1); }
  index_t query_head(index_t head) const noexcept { return head / (heads() / q.extent(1)); }
  index_t value_head(const recurrence_stream& stream) const noexcept {
    return v.extent(1) == k.extent(1) ? stream.kv_head : stream.state_head;
  }
  index_t chunk_tokens() const noexcept {
    return std::min(chunk, std::max<index_t>(std::max(q.extent(2), k.extent(2)), 1));
  }
  index_t queries_of(const recurrence_stream& stream) const noexcept { return cu ? stream.tokens : q.extent(2); }
  /// Tokens of a chunk that have a query, and the number of the query that its first token has or would have.
  index_range tokens_of_queries(const recurrence_stream& stream, chunk_span span) const noexcept {
    return {std::clamp<index_t>(offset - span.first, 0, span.count),
            std::clamp<index_t>(offset + queries_of(stream) - span.first, 0, span.count)};
  }
  index_t first_query(chunk_span span) const noexcept { return span.first - (reverse ? 0 : offset); }
  stream_numbering streams() const noexcept {
    return {cu ? cu.size() - 1 : q.extent(0), heads(), k.extent(1), sloped() ? heads() : k.extent(1), k.extent(2), cu};
  }
};

/// Where a walk over chunks finds its rows. These: keys, queries and values as the tensors have them, outputs in their
/// place. Another one (feature_rows) makes them.
template <class A, class S>
class tensor_rows {
 public:
  using T = accumulator_t<S>;
  using call_type = linear_call<S>;

  explicit tensor_rows(const linear_call<S>& call) noexcept : call_(call) {}

  struct workspace {
    workspace(const tensor_rows& rows, scratch_cursor& memory, index_t tokens) noexcept
        : value_copies(take_rows<T>(memory, tokens, rows.columns())),
          out_copies(take_rows<T>(memory, tokens, rows.columns())) {}
    row_span<T> value_copies, out_copies;
    row_span<const T> values;
  };

  /// Whether prepare_weights(space, count) and weigh(space, rows, weights, ahead) make the weights of pairs within a
  /// chunk; else they are products of what is made of queries and keys.
  static constexpr bool weighs = false;
  /// Rows and columns of a state, and numbers that it holds besides.
  index_t features() const noexcept { return call_.features(); }
  index_t columns() const noexcept { return call_.value_features(); }
  index_t extra_numbers() const noexcept { return 0; }

  /// A state, zeros to begin with, whose rows are features; its extra numbers are elsewhere.
  void load_state(const recurrence_stream& stream, T* state, index_t row_step, index_t column_step, T*) const noexcept {
    if (call_.initial_state)
      for (index_t d = 0; d < call_.features(); ++d)
        for (index_t e = 0; e < columns(); ++e)
          state[d * row_step + e * column_step] = call_.initial_state(stream.sequence, stream.state_head, d, e);
  }
  void store_state(const recurrence_stream& stream, const T* state, index_t pitch) const noexcept {
    if (call_.final_state)
      for (index_t d = 0; d < call_.features(); ++d)
        std::copy_n(state + d * pitch, columns(), &call_.final_state(stream.sequence, stream.state_head, d, 0));
  }
  /// The output of a query that sees nothing.
  void clear(const recurrence_stream& stream, index_t head, index_t i) const noexcept {
    std::fill_n(&call_.out(stream.batch, head, stream.first_token + i, 0), call_.value_features(), S(T(0)));
  }

  /// What some features of the keys of a chunk take, and all of its values, from the extra numbers of the state before.
  void prepare(workspace& space, const recurrence_stream& stream, chunk_span span, index_range,
               const T*) const noexcept {
    space.values = rows_for_vectors<T, A>(stream_rows(call_.v, stream, stream.kv_head, span.first, call_.reverse), 0,
                                          span.count, columns(), space.value_copies);
  }
  /// The extra numbers of the state after it.
  void advance(const workspace&, T*, index_range) const noexcept {}
  row_span<const S> keys(const workspace&, const recurrence_stream& stream, chunk_span span) const noexcept {
    return stream_rows(call_.k, stream, stream.kv_head, span.first, call_.reverse);
  }
  row_span<const T> log_gates(const workspace&, const recurrence_stream& stream, chunk_span span) const noexcept {
    return stream_rows(call_.feature_gates, stream, stream.kv_head, span.first, call_.reverse);
  }
  /// The queries of the next rows see all that a state with these extra numbers holds.
  void prepare_reads(workspace&, const T*) const noexcept {}
  /// Rows of a query head, of which [begin, end) are there.
  row_span<const S> queries(workspace&, const recurrence_stream& stream, index_t head, index_t first, index_t,
                            index_t) const noexcept {
    return stream_rows(call_.q, stream, call_.query_head(head), first, call_.reverse);
  }
  /// Where scaled sums of these rows go, in whole vectors, and what becomes of them there.
  row_span<T> outputs(workspace& space, const recurrence_stream& stream, index_t head, index_t first) const noexcept {
    return rows_to_leave<T, A>(stream_rows(call_.out, stream, head, first, call_.reverse), columns(), space.out_copies);
  }
  void finish_outputs(workspace& space, const recurrence_stream& stream, index_t head, index_t first, index_t begin,
                      index_t end) const noexcept {
    leave_rows<T, A>(outputs(space, stream, head, first), stream_rows(call_.out, stream, head, first, call_.reverse),
                     begin, end, columns());
  }

 private:
  const linear_call<S>& call_;
};

template <class A, class S, gate_kind Kind, class Rows = tensor_rows<A, S>>
class linear_forward_chunks {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  explicit linear_forward_chunks(const typename Rows::call_type& call) noexcept : call_(call), rows_(call) {}

  /// What prepare makes of a chunk.
  struct prepared {
    prepared(const linear_forward_chunks& op, scratch_cursor& memory) noexcept : rows(op.rows_, memory, op.chunk()) {
      const index_t tokens = op.chunk(), features = op.rows_.features();
      if constexpr (!Rows::weighs) key_copies = take_rows<T>(memory, tokens, features);
      if constexpr (Kind == gate_kind::feature) decay = chunk_decay<T>(memory, tokens, features);
      if constexpr (Kind == gate_kind::token) {
        token = token_decay<T>(memory, tokens);
        faded_values = take_rows<T>(memory, tokens, op.call_.value_features());
      }
    }

    typename Rows::workspace rows;
    row_span<T> key_copies, faded_values;
    chunk_decay<T> decay;
    token_decay<T> token;
    row_span<const T> keys;
    index_t count = 0;
  };

  struct workspace {
    workspace(const linear_forward_chunks& op, scratch_cursor& memory) noexcept {
      const index_t tokens = op.chunk(), features = op.rows_.features();
      if constexpr (!Rows::weighs) {
        query_copies = take_rows<T>(memory, tokens, features);
        panels = take_panels<T, A>(memory, tokens, features);
      }
      if constexpr (Kind == gate_kind::feature) faded_keys = take_rows<T>(memory, tokens, features);
      weights = take_rows<T>(memory, tokens, tokens);
      // Products leave what is above their diagonal alone, and others read some of it.
      if (weights.data != nullptr) std::fill_n(weights.data, tokens * weights.stride, T(0));
    }

    row_span<T> query_copies, faded_keys;
    row_panels<T> panels;
    row_span<T> weights;
    prefetcher ahead;
  };

  stream_numbering streams() const noexcept { return call_.streams(); }
  index_t chunk() const noexcept { return call_.chunk_tokens(); }
  index_t queries_of(const recurrence_stream& stream) const noexcept { return call_.queries_of(stream); }
  index_t features() const noexcept { return rows_.features(); }
  index_t pitch() const noexcept { return conflict_free_pitch<T>(rows_.columns()); }
  index_t state_size() const noexcept { return rows_.features() * pitch() + rows_.extra_numbers(); }

  void load_state(const recurrence_stream& stream, T* state) const noexcept {
    std::fill_n(state, state_size(), T(0));
    rows_.load_state(stream, state, pitch(), 1, state + rows_.features() * pitch());
  }

  void finish(const recurrence_stream& stream, const T* state) const noexcept {
    rows_.store_state(stream, state, pitch());
    const index_t before = std::clamp<index_t>(-call_.offset, 0, call_.q.extent(2));
    for (index_t h = 0; h < stream.heads; ++h)
      for (index_t i = 0; i < before; ++i) rows_.clear(stream, stream.first_head + h, i);
  }

  void prepare(prepared& ready, const recurrence_stream& stream, chunk_span span, const T* state) const noexcept {
    prepare_rows(ready, stream, span, all_features(), state);
    if constexpr (Kind == gate_kind::feature) {
      if (stream.heads == 1) {
        const index_range seen = call_.tokens_of_queries(stream, span);
        const auto queries =
            rows_.queries(ready.rows, stream, stream.first_head, call_.first_query(span), seen.low, seen.high);
        const auto read = [queries, seen](index_t t, index_t i, int some, P product) {
          if (t < seen.low || t >= seen.high) return product;
          return load_some<T, A>(queries[t] + i, some) * product;
        };
        return prepare_writes(ready, stream, span, all_features(), read);
      }
    }
    prepare_writes(ready, stream, span, all_features(), [](index_t, index_t, int, P product) { return product; });
  }

  void attend(workspace& space, prepared& ready, const recurrence_stream& stream, chunk_span span,
              const T* state) const noexcept {
    const auto [begin, end] = call_.tokens_of_queries(stream, span);
    if (begin == end) return;
    if constexpr (Rows::weighs)
      rows_.prepare_weights(ready.rows, span.count);
    else if constexpr (Kind == gate_kind::feature)
      transpose_rows<T, A>(ready.keys, span.count, space.panels, [&](index_t d) { return P(ready.decay.inverse[d]); });
    else
      transpose_rows<T, A>(ready.keys, span.count, space.panels, [](index_t) { return P(T(1)); });
    const row_span<const T> weights = space.weights;
    const P scale(static_cast<T>(call_.scale));
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h, first = call_.first_query(span);
      const auto queries = rows_.queries(ready.rows, stream, head, first, begin, end);
      const auto out = rows_.outputs(ready.rows, stream, head, first);
      row_span<const T> faded = space.query_copies;
      if constexpr (Kind == gate_kind::feature) {
        if (stream.heads == 1)
          faded = ready.decay.until;
        else
          copy_rows<T, A>(
              queries, begin, end, call_.features(), space.query_copies,
              [until = ready.decay.until](index_t t, index_t i, P x) { return x * P::load_aligned(until[t] + i); });
      } else
        faded = rows_for_scalars<T, A>(queries, begin, end, call_.features(), space.query_copies);
      if constexpr (Rows::weighs)
        rows_.weigh(ready.rows, {begin, end}, space.weights, space.ahead);
      else if (Kind != gate_kind::feature || ready.decay.mild)
        lower_products<T, A>(faded, space.panels, {begin, end}, space.weights, space.ahead);
      else
        weigh_carefully(space, ready, stream, span, queries, begin, end);
      if constexpr (Kind == gate_kind::token) ready.token.template fade<A>(space.weights, begin, end);
      sum_products<T, A>(
          {begin, end}, {0, rows_.columns()}, times(faded, {state, pitch()}, rows_.features()),
          [&](index_t t, int, P sum) {
            if constexpr (Kind == gate_kind::token)
              return sum * P(ready.token.until[t]);
            else
              return sum;
          },
          times<band::lower>(weights, ready.rows.values, span.count),
          [out, scale](index_t t, int v, P sum) { (sum * scale).store(out[t] + v * P::lanes); }, space.ahead);
      rows_.finish_outputs(ready.rows, stream, head, first, begin, end);
    }
  }

  void advance(workspace& space, const prepared& ready, const T* from, T* to) const noexcept {
    advance(space, ready, from, to, all_features());
  }

  void write(workspace& space, prepared& ready, const recurrence_stream& stream, chunk_span span, index_range features,
             const T* from, T* to) const noexcept {
    prepare_rows(ready, stream, span, features, from);
    prepare_writes(ready, stream, span, features, typename chunk_decay<T>::nowhere{});
    call_rows(space, stream, span.first + span.count, features, true, false, false);
    advance(space, ready, from, to, features);
  }

  /// Has the products that follow call the rows of a chunk from token `first` on.
  void call_ahead(workspace& space, const recurrence_stream& stream, index_t first, rows_ahead wanted) const noexcept {
    const bool written = wanted != rows_ahead::read, read = wanted != rows_ahead::written;
    const bool prepares_queries = Kind == gate_kind::feature && stream.heads == 1;
    call_rows(space, stream, first, all_features(), written, read, prepares_queries ? written : read);
  }

  /// Outputs of queries that see all that a state holds.
  void read(workspace& space, prepared& ready, const recurrence_stream& stream, chunk_span span,
            const T* state) const noexcept {
    const bool nothing = stream.tokens == 0 && !call_.initial_state;
    const P scale(static_cast<T>(call_.scale));
    rows_.prepare_reads(ready.rows, state + rows_.features() * pitch());
    space.ahead = {};
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h;
      if (nothing) {
        for (index_t t = 0; t < span.count; ++t) rows_.clear(stream, head, span.first + t);
        continue;
      }
      const auto queries = rows_for_scalars<T, A>(rows_.queries(ready.rows, stream, head, span.first, 0, span.count), 0,
                                                  span.count, call_.features(), space.query_copies);
      const auto out = rows_.outputs(ready.rows, stream, head, span.first);
      sum_product<T, A>(
          {0, span.count}, {0, rows_.columns()}, [](index_t, int) { return P(T(0)); },
          times(queries, {state, pitch()}, rows_.features()),
          [out, scale](index_t t, int v, P sum) { (sum * scale).store(out[t] + v * P::lanes); }, space.ahead);
      rows_.finish_outputs(ready.rows, stream, head, span.first, 0, span.count);
    }
  }

 private:
  index_range all_features() const noexcept { return {0, rows_.features()}; }

  void prepare_rows(prepared& ready, const recurrence_stream& stream, chunk_span span, index_range features,
                    const T* state) const noexcept {
    ready.count = span.count;
    rows_.prepare(ready.rows, stream, span, features, state + rows_.features() * pitch());
  }

  /// What some features of the state after a chunk take; gates multiply up to what `read` makes of them.
  template <class Read>
  void prepare_writes(prepared& ready, const recurrence_stream& stream, chunk_span span, index_range features,
                      Read read) const noexcept {
    const auto keys = rows_.keys(ready.rows, stream, span);
    if constexpr (Kind == gate_kind::feature) {
      ready.decay.template multiply<A>(
          span.count, features, gates(ready, stream, span), read,
          [keys](index_t t, index_t i, int some, P product) { return load_some<T, A>(keys[t] + i, some) * product; });
      ready.keys = ready.decay.after;
    } else {
      ready.keys = rows_for_scalars<T, A>(keys, 0, span.count, call_.features(), ready.key_copies);
    }
    if constexpr (Kind == gate_kind::token) {
      if (call_.constant())
        ready.token.repeat(span.count, call_.token_log_gate(stream, span.first));
      else
        ready.token.template multiply<A>(span.count, token_log_gates(stream, span));
      copy_rows<T, A>(ready.rows.values, 0, span.count, rows_.columns(), ready.faded_values,
                      [after = ready.token.after](index_t t, index_t, P x) { return x * P(after[t]); });
    }
  }

  void advance(workspace& space, const prepared& ready, const T* from, T* to, index_range features) const noexcept {
    row_span<const T> values = ready.rows.values;
    if constexpr (Kind == gate_kind::token) values = ready.faded_values;
    sum_product<T, A>(
        features, {0, rows_.columns()},
        [&](index_t d, int v) {
          const P before = P::load_aligned(from + d * pitch() + v * P::lanes);
          if constexpr (Kind == gate_kind::feature)
            return without_negligible(before * P(ready.decay.total[d]));
          else if constexpr (Kind == gate_kind::token)
            return without_negligible(before * P(ready.token.total));
          else
            return before;
        },
        transposed_times(ready.keys, values, ready.count),
        [&](index_t d, int v, P sum) { sum.store_aligned(to + d * pitch() + v * P::lanes); }, space.ahead);
    rows_.advance(ready.rows, to + rows_.features() * pitch(), features);
  }

  /// The gates of a vector of features of a token.
  auto gates(const prepared& ready, const recurrence_stream& stream, chunk_span span) const noexcept {
    return gate_rows<A>(rows_.log_gates(ready.rows, stream, span));
  }

  /// Log gates of some tokens, from the span's t on.
  auto token_log_gates(const recurrence_stream& stream, chunk_span span) const noexcept {
    return [this, stream, span](index_t t, int some) {
      alignas(64) T each[P::lanes] = {};
      for (int i = 0; i < some; ++i) each[i] = call_.token_log_gate(stream, span.first + t + i);
      return P::load_aligned(each);
    };
  }

  /// Has the products that make some features of a state, those that read it, or both call rows of a chunk: what is
  /// written, and queries.
  void call_rows(workspace& space, const recurrence_stream& stream, index_t first, index_range features, bool written,
                 bool read, bool queries) const noexcept {
    const index_t count = std::min(chunk(), stream.tokens - first);
    space.ahead = {};
    if (count <= 0) return;
    const auto add = [&](const auto& tensor, index_t head, index_t token, index_t rows_of_chunk, index_t numbers) {
      const auto rows = stream_rows(tensor, stream, head, token, call_.reverse);
      space.ahead.add(rows.data, rows.stride, rows_of_chunk, numbers);
    };
    const index_t vectors = vectors_of<T, A>(call_.value_features());
    index_t work = 0;
    if (written) {
      if (call_.feature_gates) add(call_.feature_gates, stream.kv_head, first, count, call_.features());
      add(call_.k, stream.kv_head, first, count, call_.features());
      add(call_.v, call_.value_head(stream), first, count, call_.value_features());
      work += (features.high - features.low) * vectors;
    }
    const auto [begin, end] = call_.tokens_of_queries(stream, {first, count});
    if (queries && begin < end)
      for (index_t h = 0; h < stream.heads; ++h)
        add(call_.q, call_.query_head(stream.first_head + h), call_.first_query({first, count}) + begin, end - begin,
            call_.features());
    if (read) work += stream.heads * count * (vectors_of<T, A>(count) / 2 + vectors);
    space.ahead.spread(work);
  }

  /// Weights of a chunk that is not mild.
  template <class Q>
  void weigh_carefully(workspace& space, const prepared& ready, const recurrence_stream& stream, chunk_span span,
                       row_span<Q> queries, index_t begin, index_t end) const noexcept {
    copy_rows<T, A>(rows_.keys(ready.rows, stream, span), 0, span.count, call_.features(), space.faded_keys);
    decay_downward<T, A>(span.count, call_.features(), space.faded_keys, gates(ready, stream, span), [&](index_t t) {
      if (t >= begin && t < end)
        weigh_faded<T, A>(queries[t], row_span<const T>(space.faded_keys), t, call_.features(), space.weights[t]);
    });
  }

  const linear_call<S>& call_;
  Rows rows_;
};

}  // namespace detail
HEED_ARCH_END
