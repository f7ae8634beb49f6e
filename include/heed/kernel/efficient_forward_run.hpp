/// Runs a checked forward call of efficient attention: keys leave their contexts behind, and queries read them.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>
#include <heed/kernel/efficient_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// The context of some keys, relative to the largest key of each feature.
template <class T>
struct partial_context {
  partial_context(scratch_cursor& memory, index_t features, index_t value_features) noexcept
      : top(memory.take<T>(features)),
        sum(memory.take<T>(features)),
        rows(take_rows<T>(memory, features, value_features)) {}

  T* top;            // [D]
  T* sum;            // [D]
  row_span<T> rows;  // [D][E]
};

template <class A, class S>
class efficient_forward_run {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  explicit efficient_forward_run(const efficient_call<S>& call) noexcept
      : call_(call), parts_(1, call.k.extent(2), call.contexts()) {}

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + call_.contexts() * parts_.parts * context_bytes();
  }

  void run(const checker& check, const view<S, 4>& out, const view<T, 3>& key_max, const view<T, 3>& key_sum,
           scratch_view scratch, const executor_ref& where) {
    if (call_.contexts() == 0) return;
    const scratch_block memory(check, scratch, bytes(where));
    contexts_ = memory.data() + worker_bytes() * where.concurrency;
    const auto space_at = [&](index_t worker) { return workspace(memory.data() + worker * worker_bytes(), call_); };
    auto gather = [&](index_t number, index_t worker) {
      workspace space = space_at(worker);
      gather_keys(space, number / parts_.parts, number % parts_.parts);
    };
    for_each_task(where, call_.contexts() * parts_.parts, gather);
    auto merge = [&](index_t number, index_t) { merge_parts(number, key_max, key_sum); };
    for_each_task(where, call_.contexts(), merge);
    const index_t groups = (call_.queries() + query_group - 1) / query_group;
    auto read = [&](index_t number, index_t worker) {
      workspace space = space_at(worker);
      const index_t head = number / groups, first = number % groups * query_group;
      read_context(space, head, first, std::min(first + query_group, call_.queries()), out);
    };
    for_each_task(where, call_.q.extent(0) * call_.q.extent(1) * groups, read);
  }

 private:
  static constexpr index_t query_group = 4 * efficient_block;

  struct workspace {
    workspace(std::byte* memory, const efficient_call<S>& call) noexcept {
      scratch_cursor cursor(memory);
      weights = take_rows<T>(cursor, efficient_block, call.features());
      values = take_rows<T>(cursor, efficient_block, call.value_features());
      factors = cursor.take<T>(std::max(efficient_block, call.features()));
      bytes = cursor.used();
    }
    row_span<T> weights;  // [row][D]: of keys, or features of queries
    row_span<T> values;   // [row][E]
    T* factors;           // by feature, or by query
    index_t bytes;
  };

  index_t worker_bytes() const noexcept { return round_up(workspace(nullptr, call_).bytes, cache_line); }
  index_t context_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    partial_context<T>(cursor, call_.features(), call_.value_features());
    return round_up(cursor.used(), cache_line);
  }
  partial_context<T> context(index_t number, index_t part) const noexcept {
    scratch_cursor cursor(contexts_ + (number * parts_.parts + part) * context_bytes());
    return {cursor, call_.features(), call_.value_features()};
  }

  void gather_keys(workspace& space, index_t number, index_t part) const noexcept {
    const index_t b = number / call_.k.extent(1), g = number % call_.k.extent(1);
    const partial_context<T> context = this->context(number, part);
    for_vectors<T, A>(call_.features(), [&](index_t d, int) {
      P(-std::numeric_limits<T>::infinity()).store_aligned(context.top + d);
      P(T(0)).store_aligned(context.sum + d);
    });
    clear_rows<T, A>(context.rows, call_.features(), call_.value_features());
    parts_.for_blocks_of(part, [&](const block_of_rows& block) {
      const index_t count = std::min(block.count, call_.keys(b) - block.first);
      if (count <= 0) return;
      const row_span<const S> keys = rows_at(call_.k, b, g, block.first), values = rows_at(call_.v, b, g, block.first);
      row_span<const T> weights = space.weights;
      if (call_.softmax()) {
        copy_rows<T, A>(keys, 0, count, call_.features(), space.weights);
        weigh_keys(space, count, context);
      } else {
        weights = rows_for_scalars<T, A>(keys, 0, count, call_.features(), space.weights);
      }
      add_context<T, A>(weights, rows_for_vectors<T, A>(values, 0, count, call_.value_features(), space.values), count,
                        call_.features(), call_.value_features(), context.rows);
    });
  }

  /// Makes weights of a block of keys, and what is there already relative to the same maximum.
  void weigh_keys(const workspace& space, index_t count, const partial_context<T>& context) const noexcept {
    bool rises = false;
    for_vectors<T, A>(call_.features(), [&](index_t d, int) {
      const P before = P::load_aligned(context.top + d);
      P top = before;
      for (index_t j = 0; j < count; ++j) top = max(P::load_aligned(space.weights[j] + d), top);
      const P reference = finite_reference(top), factor = exp_nonpositive(before - reference);
      P sum(T(0));
      for (index_t j = 0; j < count; ++j) {
        T* const at = space.weights[j] + d;
        const P p = exp_nonpositive(P::load_aligned(at) - reference);
        p.store_aligned(at);
        sum += p;
      }
      top.store_aligned(context.top + d);
      fma(P::load_aligned(context.sum + d), factor, sum).store_aligned(context.sum + d);
      factor.store_aligned(space.factors + d);
      rises = rises || !all(factor == P(T(1)));
    });
    if (!rises) return;
    for (index_t d = 0; d < call_.features(); ++d) {
      if (space.factors[d] == T(1)) continue;
      for_vectors<T, A>(call_.value_features(), [&](index_t e, int) {
        T* const at = context.rows[d] + e;
        (P::load_aligned(at) * P(space.factors[d])).store_aligned(at);
      });
    }
  }

  /// The first part's rows become the context of all keys, times what its weights lack.
  void merge_parts(index_t number, const view<T, 3>& key_max, const view<T, 3>& key_sum) const noexcept {
    const index_t b = number / call_.k.extent(1), g = number % call_.k.extent(1);
    const partial_context<T> whole = context(number, 0);
    if (call_.softmax()) {
      merge_weights(number, b, g, key_max, key_sum);
    } else {
      const index_t keys = call_.keys(b);
      for (index_t part = 0; part < parts_.parts; ++part)
        std::fill_n(context(number, part).top, call_.features(), keys == 0 ? T(0) : T(1) / static_cast<T>(keys));
    }
    for (index_t d = 0; d < call_.features(); ++d)
      for_vectors<T, A>(call_.value_features(), [&](index_t e, int) {
        P sum(T(0));
        for (index_t part = 0; part < parts_.parts; ++part) {
          const partial_context<T> some = context(number, part);
          sum = fma(P(some.top[d]), P::load_aligned(some.rows[d] + e), sum);
        }
        sum.store_aligned(whole.rows[d] + e);
      });
  }

  /// What the rows of each part are to be multiplied by takes the place of its maximum.
  void merge_weights(index_t number, index_t b, index_t g, const view<T, 3>& key_max,
                     const view<T, 3>& key_sum) const noexcept {
    for_vectors<T, A>(call_.features(), [&](index_t d, int count) {
      P top(-std::numeric_limits<T>::infinity()), sum(T(0));
      for (index_t part = 0; part < parts_.parts; ++part)
        top = max(P::load_aligned(context(number, part).top + d), top);
      const auto factor_of = [&](const partial_context<T>& some) {
        return exp_nonpositive(P::load_aligned(some.top + d) - finite_reference(top));
      };
      for (index_t part = 0; part < parts_.parts; ++part) {
        const partial_context<T> some = context(number, part);
        sum = fma(factor_of(some), P::load_aligned(some.sum + d), sum);
      }
      const P inverse = inverse_or_zero(sum);
      for (index_t part = 0; part < parts_.parts; ++part) {
        const partial_context<T> some = context(number, part);
        (factor_of(some) * inverse).store_aligned(some.top + d);
      }
      alignas(64) T lane[P::lanes];
      top.store_aligned(lane);
      for (int i = 0; key_max && i < count; ++i) key_max(b, g, d + i) = lane[i];
      sum.store_aligned(lane);
      for (int i = 0; key_sum && i < count; ++i) key_sum(b, g, d + i) = lane[i];
    });
  }

  void read_context(workspace& space, index_t head, index_t begin, index_t end, const view<S, 4>& out) const noexcept {
    const index_t b = head / call_.q.extent(1), h = head % call_.q.extent(1);
    const row_span<const T> context = this->context(b * call_.k.extent(1) + h / call_.heads(), 0).rows;
    for (index_t first = begin; first < end; first += efficient_block) {
      const index_t count = std::min(efficient_block, end - first);
      const row_span<const S> queries = rows_at(call_.q, b, h, first);
      row_span<const T> features = space.weights;
      if (call_.softmax()) {
        copy_rows<T, A>(queries, 0, count, call_.features(), space.weights);
        exponentiate_rows<T, A>(space.weights, count, call_.features(), space.factors);
      } else {
        features = rows_for_scalars<T, A>(queries, 0, count, call_.features(), space.weights);
        std::fill_n(space.factors, count, T(1));
      }
      multiply_rows<T, A>(features, count, context, call_.features(), call_.value_features(), space.values);
      store_each<T, A>(row_span<const T>(space.values), count, call_.value_features(), rows_at(out, b, h, first),
                       [&](index_t i, index_t, P x) { return x * P(space.factors[i]); });
    }
  }

  const efficient_call<S>& call_;
  row_parts parts_;
  std::byte* contexts_ = nullptr;
};

}  // namespace detail
HEED_ARCH_END
