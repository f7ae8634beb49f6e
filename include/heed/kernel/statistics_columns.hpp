/// Statistics key by key: tasks own some blocks of keys, which all tiles of queries visit in their order.
#pragma once

#include <heed/core/scratch.hpp>
#include <heed/kernel/statistics_call.hpp>
#include <heed/kernel/task_numbering.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// What the keys of a task have met so far, lane by lane: lane n of a key is about every `width`-th row.
template <class T, class A>
class column_sums {
 public:
  using I = lane_int_t<T>;
  static constexpr int width = lanes<T, A>;
  static constexpr index_t most_keys = index_t(tile_shape<T, A>::tiles) * tile_shape<T, A>::keys;

  explicit column_sums(scratch_cursor& memory) noexcept
      : sum_(memory.take<T>(most_keys * width)),
        max_(memory.take<T>(most_keys * width)),
        last_(memory.take<I>(most_keys * width)) {}

  void clear_sum() noexcept { std::fill_n(sum_, most_keys * width, T(0)); }
  void clear_max() noexcept { std::fill_n(max_, most_keys * width, T(0)); }
  void clear_last() noexcept { std::fill_n(last_, most_keys * width, I(-1)); }

  /// `weights` [key][lane] of a part whose key 0 is key `first_key` of the task; `factors` [lane] of the rows.
  void add(const T* weights, const tile_part& part, index_t first_key, const T* factors) noexcept {
    for_keys(weights, part, first_key, [&](const P& p, int lane, index_t key) {
      T* const sum = sum_ + key * width;
      fma(p, P::load_aligned(factors + lane), P::load_aligned(sum)).store_aligned(sum);
    });
  }
  void raise(const T* weights, const tile_part& part, index_t first_key) noexcept {
    for_keys(weights, part, first_key, [&](const P& p, int, index_t key) {
      T* const most = max_ + key * width;
      const P before = P::load_aligned(most);
      // NaN stays.
      select((p <= before) | !(before == before), before, p).store_aligned(most);
    });
  }
  /// `first_row`: that of lane 0.
  void mark(const T* weights, const tile_part& part, index_t first_key, int first_row, T threshold) noexcept {
    using rows = index_pack<T, A>;
    for_keys(weights, part, first_key, [&](const P& p, int lane, index_t key) {
      const rows before = rows::load(last_ + key * width);
      select(p > P(threshold), max(before, rows::counting_from(first_row + lane)), before).store(last_ + key * width);
    });
  }

  T sum(index_t key) const noexcept { return reduce_add(P::load_aligned(sum_ + key * width)); }
  T max_weight(index_t key) const noexcept {
    T most(0);
    for (const T* lane = max_ + key * width; lane != max_ + (key + 1) * width; ++lane)
      if (*lane > most || *lane != *lane) most = *lane;
    return most;
  }
  I last_row(index_t key) const noexcept { return *std::max_element(last_ + key * width, last_ + (key + 1) * width); }

 private:
  using P = pack<T, A>;

  template <class F>
  HEED_INLINE static void for_keys(const T* weights, const tile_part& part, index_t first_key, F f) noexcept {
    for (int j = part.first; j < part.first + part.count; ++j)
      for (int g = part.low; g < part.high; ++g)
        f(P::load_aligned(weights + j * tile_shape<T, A>::queries + g * width), g * width, first_key + j);
  }

  T* sum_;  // [key][width]
  T* max_;
  I* last_;
};

/// Scratch of one worker.
template <class S, class A>
struct column_workspace : statistics_workspace<S, A> {
  using T = accumulator_t<S>;
  column_workspace(scratch_cursor& memory, index_t features, bool bias) noexcept
      : statistics_workspace<S, A>(memory, features, bias),
        sums(memory),
        factors(memory.take<T>(tile_shape<T, A>::queries)) {}

  column_sums<T, A> sums;
  T* factors;  // [lane]: of a tile's rows; 0: not a row, or one that takes no part
};

template <class S, class A>
index_t column_worker_bytes(index_t features, bool bias) noexcept {
  scratch_cursor count(nullptr);
  column_workspace<S, A>(count, features, bias);
  return round_up(count.used(), cache_line);
}

/// A call in progress.
template <class A, class Call>
class column_run {
 public:
  using S = typename Call::storage_type;
  using T = accumulator_t<S>;
  using shape = tile_shape<T, A>;

  column_run(const Call& call, const softmax_column_request<S>& to) noexcept : call_(call), to_(to) {
    const index_t heads = call.q.extent(1), groups = call.segment.keys.kv_heads();
    const auto by_group = [&](const auto& output) { return output && output.extent(1) == groups; };
    // A task may have one head to itself unless some output asks for all that share a kv head.
    const bool together = by_group(to.sum) || by_group(to.max) || by_group(to.last_row);
    units_ = together ? groups : heads;
    heads_ = units_ == 0 ? 0 : heads / units_;
  }

  void run(const checker& check, scratch_view scratch, const executor_ref& where) const {
    const index_t features = call_.q.extent(3);
    const bool bias = static_cast<bool>(call_.bias);
    const auto numbering = [&](index_t size) {
      return task_numbering(call_.q.extent(0), units_, call_.segment.keys.k.extent(2), call_.segment.keys.cu, size);
    };
    const task_numbering tasks =
        numbering(rows_a_task<T, A>(numbering(shape::keys).count(), where.concurrency, shape::keys));
    if (tasks.count() == 0) return;
    const index_t share = column_worker_bytes<S, A>(features, bias);
    const scratch_block memory(check, scratch, scratch_total(share, where.concurrency));
    auto task = [&](index_t number, index_t worker) {
      // Some keys of a unit of heads.
      const query_rows keys = tasks.at(number);
      if (keys.count == 0) return;
      scratch_cursor cursor(memory.data() + worker * share);
      column_workspace<S, A> space(cursor, features, bias);
      space.sums.clear_sum();
      space.sums.clear_max();
      space.sums.clear_last();
      for (index_t h = 0; h < heads_; ++h) visit_head(space, keys, keys.head * heads_ + h, h + 1 == heads_);
    };
    for_each_task(where, tasks.count(), task);
  }

 private:
  /// All query tiles of a head, then what they leave is written; `last`: of those that share a kv head.
  void visit_head(column_workspace<S, A>& space, const query_rows& keys, index_t head, bool last) const {
    const index_t queries = call_.queries(keys.sequence).count;
    for (index_t first = 0; first < queries; first += shape::queries) {
      const int count = static_cast<int>(std::min<index_t>(shape::queries, queries - first));
      visit_tile(space, keys, {keys.sequence, static_cast<int>(head), first, count});
    }
    const sequence_span span = call_.keys(keys.sequence);
    const auto write = [&](const auto& output, auto value) {
      const index_t row = output.extent(1) == call_.q.extent(1) ? head : head / heads_;
      for (int j = 0; j < keys.count; ++j) output(span.batch, row, span.first + keys.first + j) = value(j);
    };
    // An output of each head is complete; one of a kv head goes on collecting.
    const auto complete = [&](const auto& output) { return output && (last || output.extent(1) == call_.q.extent(1)); };
    if (complete(to_.sum)) {
      write(to_.sum, [&](index_t j) { return space.sums.sum(j); });
      space.sums.clear_sum();
    }
    if (complete(to_.max)) {
      write(to_.max, [&](index_t j) { return space.sums.max_weight(j); });
      space.sums.clear_max();
    }
    if (complete(to_.last_row)) {
      const index_t first_row = call_.queries(keys.sequence).first;
      write(to_.last_row, [&](index_t j) {
        const auto row = space.sums.last_row(j);
        return static_cast<std::int32_t>(row < 0 ? -1 : row + first_row);
      });
      space.sums.clear_last();
    }
  }

  void visit_tile(column_workspace<S, A>& space, const query_rows& keys, const query_rows& at) const {
    const auto m = call_.template meet<A>(at);
    const index_t begin = std::max(m.begin, keys.first / shape::keys);
    const index_t end = std::min(m.end, (keys.first + keys.count + shape::keys - 1) / shape::keys);
    if (begin >= end) return;
    const sequence_span queries = call_.queries(at.sequence);
    const index_t batch = queries.batch, row = queries.first + at.first;
    bool some = false, whole = true;
    std::fill_n(space.factors, shape::queries, T(0));
    for (int i = 0; i < at.count; ++i) {
      if (call_.lse(batch, at.head, row + i) != -std::numeric_limits<T>::infinity())
        space.factors[i] = to_.row_weights ? to_.row_weights(batch, at.head, row + i) : T(1);
      some = some || space.factors[i] != T(0);
      whole = whole && space.factors[i] != T(0);
    }
    if (!some) return;
    whole = whole && at.count % shape::width == 0;
    space.tile.load(&call_.q(batch, at.head, row, 0), call_.q.stride(2), &call_.lse(batch, at.head, row),
                    call_.lse.stride(2), at.count, call_.factor());
    for_seen_blocks(m, at.count, begin, end, space.buffers, call_.segment.mask,
                    [&](index_t block, const auto& rows, tile_place here, const T* bias, bool partial) {
                      const index_t first_key = m.first_key(block) - keys.first;
                      space.tile.weigh(rows, here, bias, partial, weight_form::weights, call_.segment.mask, call_.chain,
                                       [&](const tile_part& part, const T*) {
                                         if (!whole) drop_rows(space, part);
                                         collect(space, part, first_key, static_cast<int>(at.first));
                                       });
                    });
  }

  /// Weights of rows that take no part become 0, whatever they are.
  static void drop_rows(const column_workspace<S, A>& space, const tile_part& part) noexcept {
    using P = pack<T, A>;
    for (int j = part.first; j < part.first + part.count; ++j)
      for (int g = part.low; g < part.high; ++g) {
        T* const weight = space.buffers.scores + j * shape::queries + g * shape::width;
        select(P::load_aligned(space.factors + g * shape::width) != P(T(0)), P::load_aligned(weight), P(T(0)))
            .store_aligned(weight);
      }
  }

  void collect(column_workspace<S, A>& space, const tile_part& part, index_t first_key, int first_row) const noexcept {
    const T* const weights = space.buffers.scores;
    if (to_.sum) space.sums.add(weights, part, first_key, space.factors);
    if (to_.max) space.sums.raise(weights, part, first_key);
    if (to_.last_row) space.sums.mark(weights, part, first_key, first_row, static_cast<T>(to_.threshold));
  }

  const Call& call_;
  const softmax_column_request<S>& to_;
  index_t units_, heads_;  // heads of a unit
};

}  // namespace detail
HEED_ARCH_END
