/// FAST pair by pair: cheaper than moments for sequences that are short beside the square of the head size.
#pragma once

#include <heed/kernel/fastmax_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Blocks of queries times blocks of keys. Rows: fastmax_rows, or fastmax_gradient_rows for gradients.
template <class A, class S, class Rows>
class fastmax_pairs : Rows {
  using Rows::call_;
  using typename Rows::side;

 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  fastmax_pairs(const typename Rows::call_type& call, bool causal, const executor_ref& where) noexcept
      : Rows(call), causal_(causal), where_(where), streams_(call_.streams()) {}

  index_t bytes() const noexcept { return scratch_total(worker_bytes(), where_.concurrency); }

  /// Outputs.
  void attend(const checker& check, scratch_view scratch) const {
    run(check, scratch, call_.q.extent(2),
        [&](workspace& space, const recurrence_stream& stream, chunk_span queries) { attend(space, stream, queries); });
  }
  /// Gradients.
  void differentiate(const checker& check, scratch_view scratch) const {
    run(check, scratch, call_.q.extent(2), [&](workspace& space, const recurrence_stream& stream, chunk_span span) {
      differentiate_queries(space, stream, span);
    });
    run(check, scratch, call_.k.extent(2), [&](workspace& space, const recurrence_stream& stream, chunk_span span) {
      differentiate_keys(space, stream, span);
    });
  }

 private:
  struct workspace {
    workspace(const fastmax_pairs& op, scratch_cursor& memory) noexcept {
      const index_t tokens = op.chunk(), features = op.call_.features(), columns = op.columns();
      queries = side::take(memory, tokens, features, 0);
      keys = side::take(memory, tokens, features, 0);
      values = take_rows<T>(memory, tokens, columns);
      sums = take_rows<T>(memory, tokens, columns);
      upstream = take_rows<T>(memory, tokens, columns);
      by_rows = take_rows<T>(memory, tokens, features);
      key_panels = take_panels<T, A>(memory, tokens, features);
      value_panels = take_panels<T, A>(memory, tokens, columns);
      products = take_rows<T>(memory, tokens, tokens);
      weights = take_rows<T>(memory, tokens, tokens);
    }
    side queries, keys;
    row_span<T> values, sums, upstream, by_rows, products, weights;
    row_panels<T> key_panels, value_panels;
    prefetcher ahead;
  };

  static constexpr auto zero = [](index_t, int) { return P(T(0)); };

  index_t chunk() const noexcept { return call_.chunk_tokens(); }
  index_t queries_of(const recurrence_stream& stream) const noexcept {
    return call_.cu ? stream.tokens : call_.q.extent(2);
  }
  index_t worker_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    workspace(*this, cursor);
    return round_up(cursor.used(), cache_line);
  }

  /// work(space, stream, span) for blocks of at most `most` tokens of each stream.
  template <class Work>
  void run(const checker& check, scratch_view scratch, index_t most, const Work& work) const {
    const index_t blocks = chunk_cuts{most, chunk()}.count();
    if (streams_.count() * blocks == 0) return;
    const scratch_block memory(check, scratch, bytes());
    auto walk = [&](index_t number, index_t worker) {
      const recurrence_stream stream = streams_.at(number / blocks);
      const chunk_cuts cuts{call_.cu ? stream.tokens : most, chunk()};
      if (number % blocks >= cuts.count()) return;
      scratch_cursor cursor(memory.data() + worker * worker_bytes());
      workspace space(*this, cursor);
      work(space, stream, cuts[number % blocks]);
    };
    for_each_task(where_, streams_.count() * blocks, walk);
  }

  /// How many keys of a stream the last of these queries sees, and the first query that sees one of these keys.
  index_t seen(const recurrence_stream& stream, chunk_span queries) const noexcept {
    const index_t last = queries.first + queries.count + call_.offset;
    return causal_ ? std::clamp<index_t>(last, 0, stream.tokens) : stream.tokens;
  }
  index_t first_reader(chunk_span keys) const noexcept {
    return causal_ ? std::max<index_t>(keys.first - call_.offset, 0) : 0;
  }

  void load_queries(workspace& space, const recurrence_stream& stream, index_t head, chunk_span span) const noexcept {
    this->normalise(space.queries, stream_rows(call_.q, stream, head, span.first, false), 0, span.count,
                    this->norm_of(call_.query_norms, stream, head));
  }
  void load_keys(workspace& space, const recurrence_stream& stream, chunk_span span) const noexcept {
    this->normalise(space.keys, stream_rows(call_.k, stream, stream.kv_head, span.first, false), 0, span.count,
                    this->norm_of(call_.key_norms, stream, stream.kv_head));
    this->copy_values(stream, span, space.values);
    const P factor(static_cast<T>(1 / call_.tau));
    transpose_rows<T, A>(row_span<const T>(space.keys.plain), span.count, space.key_panels,
                         [&](index_t) { return factor; });
  }

  /// emit(t, first lane's key, sum of products) for all pairs of rows and rows in panels, a vector of keys at a time.
  template <class Emit>
  void for_products(workspace& space, row_span<const T> rows, const row_panels<T>& panels, chunk_span queries,
                    chunk_span keys, const Emit& emit) const noexcept {
    for (index_t j = 0; j < keys.count; j += P::lanes)
      sum_product<T, A>(
          {0, queries.count}, {0, P::lanes}, zero,
          times(rows, row_span<const T>{panels.template panel<A>(j / P::lanes), row_panels<T>::template pitch<A>},
                panels.features),
          [&](index_t t, int, P sum) { emit(t, j, sum); }, space.ahead);
  }
  /// x for keys from j on that query t sees, else 0.
  P visible(P x, index_t t, index_t j, chunk_span queries, chunk_span keys) const noexcept {
    const index_t last = queries.first + t + call_.offset - keys.first - j;
    if (!causal_ || last >= P::lanes - 1) return x;
    alignas(64) T each[P::lanes];
    x.store_aligned(each);
    for (index_t i = std::max<index_t>(last + 1, 0); i < P::lanes; ++i) each[i] = T(0);
    return P::load_aligned(each);
  }
  T square() const noexcept { return T(call_.p == 2 ? 0.5 : 0.0); }
  /// Weights, and the products that they are made of.
  void weigh(workspace& space, chunk_span queries, chunk_span keys) const noexcept {
    const P half(square()), one(T(1));
    for_products(space, space.queries.plain, space.key_panels, queries, keys, [&](index_t t, index_t j, P s) {
      s.store_aligned(space.products[t] + j);
      visible(fma(fma(half, s, one), s, one), t, j, queries, keys).store_aligned(space.weights[t] + j);
    });
  }
  /// Gradients by q . k, in place of the products.
  void differentiate_products(workspace& space, chunk_span queries, chunk_span keys) const noexcept {
    const P twice(2 * square()), factor(static_cast<T>(1 / call_.tau)), one(T(1));
    for_products(space, space.upstream, space.value_panels, queries, keys, [&](index_t t, index_t j, P dw) {
      const P slope = fma(twice, P::load_aligned(space.products[t] + j), one) * factor;
      visible(slope * dw, t, j, queries, keys).store_aligned(space.products[t] + j);
    });
  }

  /// to[row] += terms, from zeros if they are the first.
  template <class Terms>
  void add(workspace& space, row_span<T> to, index_t rows, index_t features, bool first,
           const Terms& terms) const noexcept {
    sum_product<T, A>(
        {0, rows}, {0, features},
        [&](index_t t, int v) { return first ? P(T(0)) : P::load_aligned(to[t] + v * P::lanes); }, terms,
        [&](index_t t, int v, P sum) { sum.store_aligned(to[t] + v * P::lanes); }, space.ahead);
  }

  void attend(workspace& space, const recurrence_stream& stream, chunk_span queries) const noexcept {
    const chunk_cuts cuts{seen(stream, queries), chunk()};
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h;
      load_queries(space, stream, head, queries);
      if (cuts.count() == 0) add(space, space.sums, queries.count, this->columns(), true, no_terms{});
      for (index_t c = 0; c < cuts.count(); ++c) {
        load_keys(space, stream, cuts[c]);
        weigh(space, queries, cuts[c]);
        add(space, space.sums, queries.count, this->columns(), c == 0,
            times(row_span<const T>(space.weights), row_span<const T>(space.values), cuts[c].count));
      }
      this->divide(space.sums, stream, head, queries.first, 0, queries.count);
    }
  }

  void load_pairs(workspace& space, chunk_span queries, chunk_span keys) const noexcept {
    transpose_rows<T, A>(row_span<const T>(space.values), keys.count, space.value_panels,
                         [](index_t) { return P(T(1)); });
    weigh(space, queries, keys);
    differentiate_products(space, queries, keys);
  }

  void differentiate_queries(workspace& space, const recurrence_stream& stream, chunk_span queries) const noexcept {
    const chunk_cuts cuts{seen(stream, queries), chunk()};
    const index_t features = call_.features();
    for (index_t h = 0; h < stream.heads; ++h) {
      const index_t head = stream.first_head + h;
      load_queries(space, stream, head, queries);
      this->make_upstream(stream, head, queries.first, 0, queries.count, space.upstream);
      if (cuts.count() == 0) add(space, space.by_rows, queries.count, features, true, no_terms{});
      for (index_t c = 0; c < cuts.count(); ++c) {
        load_keys(space, stream, cuts[c]);
        load_pairs(space, queries, cuts[c]);
        add(space, space.by_rows, queries.count, features, c == 0,
            times(row_span<const T>(space.products), row_span<const T>(space.keys.plain), cuts[c].count));
      }
      leave(space.queries, space.by_rows, queries.count,
            stream_rows(this->gradient_.dq, stream, head, queries.first, false));
    }
  }
  void differentiate_keys(workspace& space, const recurrence_stream& stream, chunk_span keys) const noexcept {
    const index_t features = call_.features(), low = first_reader(keys);
    const chunk_cuts cuts{queries_of(stream) - std::min(low, queries_of(stream)), chunk()};
    load_keys(space, stream, keys);
    add(space, space.by_rows, keys.count, features, true, no_terms{});
    add(space, space.sums, keys.count, this->columns(), true, no_terms{});
    for (index_t h = 0; h < stream.heads; ++h)
      for (index_t c = 0; c < cuts.count(); ++c) {
        const chunk_span queries{low + cuts[c].first, cuts[c].count};
        load_queries(space, stream, stream.first_head + h, queries);
        this->make_upstream(stream, stream.first_head + h, queries.first, 0, queries.count, space.upstream);
        load_pairs(space, queries, keys);
        add(space, space.by_rows, keys.count, features, false,
            transposed_times(row_span<const T>(space.products), row_span<const T>(space.queries.plain), queries.count));
        add(space, space.sums, keys.count, this->columns(), false,
            transposed_times(row_span<const T>(space.weights), row_span<const T>(space.upstream), queries.count));
      }
    leave(space.keys, space.by_rows, keys.count,
          stream_rows(this->gradient_.dk, stream, stream.kv_head, keys.first, false));
    store_rows<A>(row_span<const T>(space.sums),
                  stream_rows(this->gradient_.dv, stream, stream.kv_head, keys.first, false), keys.count,
                  call_.value_features());
  }
  void leave(const side& of, row_span<T> by_normal, index_t count, row_span<S> to) const noexcept {
    for (index_t t = 0; t < count; ++t) this->through_norm(of, t, by_normal[t], by_normal[t]);
    store_rows<A>(row_span<const T>(by_normal), to, count, call_.features());
  }

  bool causal_;
  executor_ref where_;
  stream_numbering streams_;
};

/// Whether pairs take fewer multiplications than moments, which calls with a state need.
template <class S>
bool prefers_pairs(const fastmax_call<S>& call, bool causal) noexcept {
  if (call.initial_state || call.final_state) return false;
  double pairs = 0, tokens = 0;
  for (index_t s = 0; call.cu && s + 1 < call.cu.size(); ++s) {
    const auto n = double(call.cu.at(s + 1) - call.cu.at(s));
    pairs += n * n;
    tokens += 2 * n;
  }
  if (!call.cu) {
    pairs = double(call.q.extent(2)) * double(call.k.extent(2));
    tokens = double(call.q.extent(2) + call.k.extent(2));
  }
  const auto width = double(call.features() + call.value_features());
  return pairs * (causal ? 0.5 : 1) * width <= tokens * double(call.expanded()) * double(call.value_features() + 1);
}

}  // namespace detail
HEED_ARCH_END
