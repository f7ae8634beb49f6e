/// Runs a checked backward call of efficient attention: contexts once more, their gradients from the queries, and on to
/// the keys.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/executor.hpp>
#include <heed/kernel/efficient_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What backward is given besides the inputs, and what it returns.
template <class S>
struct efficient_gradients {
  using T = accumulator_t<S>;
  view<const T, 3> key_max, key_sum;  // [B,G,D], of mode softmax
  view<const S, 4> dout;              // [B,H,N,E]
  view<S, 4> dq, dk, dv;
};

template <class A, class S>
class efficient_backward_run {
 public:
  using T = accumulator_t<S>;
  using P = pack<T, A>;

  efficient_backward_run(const efficient_call<S>& call, const efficient_gradients<S>& gradients) noexcept
      : call_(call),
        gradients_(gradients),
        key_parts_(1, call.k.extent(2), call.contexts()),
        query_parts_(call.contexts() == 0 ? 0 : call.heads(), call.queries(), call.contexts()) {}

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + call_.contexts() * record_bytes();
  }

  void run(const checker& check, scratch_view scratch, const executor_ref& where) {
    if (call_.contexts() == 0) return;
    const scratch_block memory(check, scratch, bytes(where));
    records_ = memory.data() + worker_bytes() * where.concurrency;
    const auto of_contexts = [&](index_t parts, const auto& work) {
      auto task = [&](index_t number, index_t worker) {
        workspace space(memory.data() + worker * worker_bytes(), call_);
        work(space, number / parts, number % parts);
      };
      for_each_task(where, call_.contexts() * parts, task);
    };
    of_contexts(key_parts_.parts, [&](workspace& space, index_t c, index_t part) { gather_keys(space, c, part); });
    of_contexts(1, [&](workspace&, index_t c, index_t) { finish_context(c); });
    of_contexts(query_parts_.parts,
                [&](workspace& space, index_t c, index_t part) { differentiate_queries(space, c, part); });
    of_contexts(1, [&](workspace&, index_t c, index_t) { finish_gradient(c); });
    of_contexts(key_parts_.parts,
                [&](workspace& space, index_t c, index_t part) { differentiate_keys(space, c, part); });
  }

 private:
  struct workspace {
    workspace(std::byte* memory, const efficient_call<S>& call) noexcept {
      scratch_cursor cursor(memory);
      features = take_rows<T>(cursor, efficient_block, call.features());
      slopes = take_rows<T>(cursor, efficient_block, call.features());
      values = take_rows<T>(cursor, efficient_block, call.value_features());
      factors = cursor.take<T>(std::max(efficient_block, call.features()));
      references = cursor.take<T>(call.features());
      bytes = cursor.used();
    }
    row_span<T> features;  // [row][D]: of queries or keys
    row_span<T> slopes;    // [row][D]: the gradient by them
    row_span<T> values;    // [row][E]
    T* factors;            // by query, or by feature
    T* references;         // by feature
    index_t bytes;
  };

  /// Of one context. The sums of the first part become those of all.
  struct record {
    record(std::byte* memory, const efficient_backward_run& run) noexcept {
      scratch_cursor cursor(memory);
      const index_t D = run.call_.features(), E = run.call_.value_features();
      context = take_rows<T>(cursor, D * run.key_parts_.parts, E);
      gradient = take_rows<T>(cursor, D * run.query_parts_.parts, E);
      context_by_value = take_rows<T>(cursor, E, D);
      gradient_by_value = take_rows<T>(cursor, E, D);
      means = cursor.take<T>(D);
      bytes = cursor.used();
    }
    row_span<T> context;            // [part][D][E]
    row_span<T> gradient;           // [part][D][E]
    row_span<T> context_by_value;   // [E][D]
    row_span<T> gradient_by_value;  // [E][D]
    T* means;                       // [D]: sum_j rho_jd times its gradient
    index_t bytes;
  };

  index_t worker_bytes() const noexcept { return round_up(workspace(nullptr, call_).bytes, cache_line); }
  index_t record_bytes() const noexcept { return round_up(record(nullptr, *this).bytes, cache_line); }
  record at(index_t number) const noexcept { return {records_ + number * record_bytes(), *this}; }

  index_t batch_of(index_t number) const noexcept { return number / call_.k.extent(1); }
  index_t group_of(index_t number) const noexcept { return number % call_.k.extent(1); }
  /// What both contexts and their gradients are multiplied by in mode scaling.
  T share_of_key(index_t number) const noexcept {
    const index_t keys = call_.keys(batch_of(number));
    return call_.softmax() ? T(1) : keys == 0 ? T(0) : T(1) / static_cast<T>(keys);
  }

  /// What turns keys of a context into weights.
  void load_references(workspace& space, index_t number) const noexcept {
    if (!call_.softmax()) return;
    const index_t b = batch_of(number), g = group_of(number);
    for_vectors<T, A>(call_.features(), [&](index_t d, int count) {
      alignas(64) T top[P::lanes] = {}, sum[P::lanes] = {};
      for (int i = 0; i < count; ++i) {
        top[i] = gradients_.key_max(b, g, d + i);
        sum[i] = gradients_.key_sum(b, g, d + i);
      }
      finite_reference(P::load_aligned(top)).store_aligned(space.references + d);
      inverse_or_zero(P::load_aligned(sum)).store_aligned(space.factors + d);
    });
  }

  /// The features of a block of keys, after load_references.
  row_span<const T> key_features(workspace& space, row_span<const S> keys, index_t count) const noexcept {
    if (!call_.softmax()) return rows_for_scalars<T, A>(keys, 0, count, call_.features(), space.features);
    copy_rows<T, A>(keys, 0, count, call_.features(), space.features, [&](index_t, index_t d, P x) {
      // Keys that are not those of forward may lie above its maximum, beyond what the exponential takes.
      const P below = min(P(T(0)), x - P::load_aligned(space.references + d));
      return exp_nonpositive(below) * P::load_aligned(space.factors + d);
    });
    return space.features;
  }

  row_span<const T> query_features(workspace& space, row_span<const S> queries, index_t count) const noexcept {
    if (!call_.softmax()) return rows_for_scalars<T, A>(queries, 0, count, call_.features(), space.features);
    copy_rows<T, A>(queries, 0, count, call_.features(), space.features);
    exponentiate_rows<T, A>(space.features, count, call_.features(), space.factors);
    for (index_t i = 0; i < count; ++i)
      for_vectors<T, A>(call_.features(), [&](index_t d, int) {
        T* const at = space.features[i] + d;
        (P::load_aligned(at) * P(space.factors[i])).store_aligned(at);
      });
    return space.features;
  }

  void gather_keys(workspace& space, index_t number, index_t part) const noexcept {
    const index_t D = call_.features(), E = call_.value_features(), b = batch_of(number), g = group_of(number);
    const row_span<T> context = at(number).context.from(part * D);
    load_references(space, number);
    clear_rows<T, A>(context, D, E);
    key_parts_.for_blocks_of(part, [&](const block_of_rows& block) {
      const index_t count = std::min(block.count, call_.keys(b) - block.first);
      if (count <= 0) return;
      const row_span<const T> features = key_features(space, rows_at(call_.k, b, g, block.first), count);
      add_context<T, A>(features,
                        rows_for_vectors<T, A>(rows_at(call_.v, b, g, block.first), 0, count, E, space.values), count,
                        D, E, context);
    });
  }

  /// Adds the sums of all parts up in the first.
  void add_parts(row_span<T> sums, index_t parts, T factor) const noexcept {
    const index_t D = call_.features();
    for (index_t d = 0; d < D; ++d)
      for_vectors<T, A>(call_.value_features(), [&](index_t e, int) {
        P sum(T(0));
        for (index_t part = 0; part < parts; ++part) sum += P::load_aligned(sums[part * D + d] + e);
        (sum * P(factor)).store_aligned(sums[d] + e);
      });
  }

  void finish_context(index_t number) const noexcept {
    const record r = at(number);
    add_parts(r.context, key_parts_.parts, share_of_key(number));
    transpose_context<T, A>(r.context, call_.features(), call_.value_features(), r.context_by_value);
  }

  void differentiate_queries(workspace& space, index_t number, index_t part) const noexcept {
    const index_t D = call_.features(), E = call_.value_features(), b = batch_of(number);
    const record r = at(number);
    const row_span<T> gradient = r.gradient.from(part * D);
    clear_rows<T, A>(gradient, D, E);
    query_parts_.for_blocks_of(part, [&](const block_of_rows& block) {
      const index_t h = group_of(number) * call_.heads() + block.head;
      const row_span<const T> features = query_features(space, rows_at(call_.q, b, h, block.first), block.count);
      const row_span<const T> upstream =
          rows_for_vectors<T, A>(rows_at(gradients_.dout, b, h, block.first), 0, block.count, E, space.values);
      add_context<T, A>(features, upstream, block.count, D, E, gradient);
      multiply_rows<T, A>(upstream, block.count, r.context_by_value, E, D, space.slopes);
      store_query_gradients(space, block.count, rows_at(gradients_.dq, b, h, block.first));
    });
  }

  /// Through the softmax of each row.
  void store_query_gradients(const workspace& space, index_t count, row_span<S> to) const noexcept {
    for (index_t i = 0; call_.softmax() && i < count; ++i) {
      P sum(T(0));
      for_vectors<T, A>(call_.features(), [&](index_t d, int) {
        sum = fma(P::load_aligned(space.features[i] + d), P::load_aligned(space.slopes[i] + d), sum);
      });
      space.factors[i] = reduce_add(sum);
    }
    store_each<T, A>(row_span<const T>(space.slopes), count, call_.features(), to, [&](index_t i, index_t d, P slope) {
      return call_.softmax() ? P::load_aligned(space.features[i] + d) * (slope - P(space.factors[i])) : slope;
    });
  }

  void finish_gradient(index_t number) const noexcept {
    const record r = at(number);
    add_parts(r.gradient, query_parts_.parts, share_of_key(number));
    transpose_context<T, A>(r.gradient, call_.features(), call_.value_features(), r.gradient_by_value);
    // sum_j rho_jd (v_j . dcontext_d) = context_d . dcontext_d
    for (index_t d = 0; d < call_.features(); ++d) {
      P sum(T(0));
      for_vectors<T, A>(call_.value_features(), [&](index_t e, int some) {
        sum = fma(first_lanes(P::load_aligned(r.context[d] + e), some, T(0)),
                  first_lanes(P::load_aligned(r.gradient[d] + e), some, T(0)), sum);
      });
      r.means[d] = reduce_add(sum);
    }
  }

  void differentiate_keys(workspace& space, index_t number, index_t part) const noexcept {
    const index_t D = call_.features(), E = call_.value_features(), b = batch_of(number), g = group_of(number);
    const record r = at(number);
    load_references(space, number);
    key_parts_.for_blocks_of(part, [&](const block_of_rows& block) {
      const row_span<S> dk = rows_at(gradients_.dk, b, g, block.first), dv = rows_at(gradients_.dv, b, g, block.first);
      const index_t count = std::clamp<index_t>(call_.keys(b) - block.first, 0, block.count);
      for (index_t j = count; j < block.count; ++j) {
        std::fill_n(dk[j], D, S(T(0)));
        std::fill_n(dv[j], E, S(T(0)));
      }
      if (count == 0) return;
      const row_span<const T> features = key_features(space, rows_at(call_.k, b, g, block.first), count);
      const row_span<T> left = rows_to_leave<T, A>(dv, E, space.values);
      multiply_rows<T, A>(features, count, r.gradient, D, E, left);
      leave_rows<T, A>(left, dv, 0, count, E);
      const row_span<const T> values =
          rows_for_scalars<T, A>(rows_at(call_.v, b, g, block.first), 0, count, E, space.values);
      multiply_rows<T, A>(values, count, r.gradient_by_value, E, D, space.slopes);
      store_each<T, A>(row_span<const T>(space.slopes), count, D, dk, [&](index_t j, index_t d, P slope) {
        return call_.softmax() ? P::load_aligned(space.features[j] + d) * (slope - P::load_aligned(r.means + d))
                               : slope;
      });
    });
  }

  const efficient_call<S>& call_;
  const efficient_gradients<S>& gradients_;
  row_parts key_parts_, query_parts_;
  std::byte* records_ = nullptr;
};

}  // namespace detail
HEED_ARCH_END
