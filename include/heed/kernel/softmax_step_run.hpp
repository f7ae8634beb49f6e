/// Runs a checked decoding call: few queries a sequence, whose heads share one reading of their keys, split over keys.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/step_panel.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// How the keys of a sequence are split: by their number alone, so that neither threads nor other sequences matter.
struct step_split {
  index_t least;  // keys a part

  /// A sequence has at most this many parts, which bounds the states that they leave.
  static constexpr index_t most_parts = 64;

  index_t keys(index_t count, index_t block) const noexcept {
    return round_up(std::max(least, (count + most_parts - 1) / most_parts), block);
  }
  index_t parts(index_t count, index_t block) const noexcept {
    const index_t each = keys(count, block);
    return (count + each - 1) / each;
  }
};

/// A call in progress: a task is a part of the keys of one kv head, for as many query rows as share their reading.
template <class A, class S, class ForEachSegment, class... Mods>
class softmax_step_run {
 public:
  using T = accumulator_t<S>;
  using shape = step_shape<T, A>;

  /// `for_each_segment(f)` calls f(softmax_segment_rows) for every segment, in order; all have `kv_heads` heads.
  softmax_step_run(const softmax_rows<S>& rows, index_t kv_heads, const ForEachSegment& for_each_segment,
                   step_split split, const score_chain<Mods...>& chain) noexcept
      : rows_(rows), for_each_segment_(for_each_segment), chain_(chain), split_(split), kv_heads_(kv_heads) {
    heads_ = kv_heads == 0 ? 0 : rows.q.extent(1) / kv_heads;
    const index_t of_head = heads_ * queries();
    chunks_ = (of_head + most_rows - 1) / most_rows;
    rows_a_chunk_ = chunks_ == 0 ? 0 : round_up(std::min(of_head, most_rows), shape::rows);
    index_t segments = 0;
    for_each_segment([&](const auto& segment) {
      ++segments;
      parts_of_segment_ = std::max(parts_of_segment_, parts_of(segment));
    });
    parts_ = segments * parts_of_segment_;
  }

  index_t bytes(const executor_ref& where) const noexcept {
    return scratch_total(worker_bytes(), where.concurrency) + tasks() * state_bytes();
  }

  void run(const checker& check, scratch_view scratch, const executor_ref& where) {
    const index_t share = worker_bytes();
    const scratch_block memory(check, scratch, bytes(where));
    std::byte* const states = memory.data() + share * where.concurrency;
    auto attend = [&](index_t number, index_t worker) {
      scratch_cursor cursor(memory.data() + worker * share);
      const step_workspace<T, A> space = space_at(cursor);
      attend_part(space, rows_of(number / parts_), number % parts_, state_at(states + number * state_bytes()));
    };
    for_each_task(where, tasks(), attend);
    auto merge = [&](index_t number, index_t) {
      merge_parts(rows_of(number), states + number * parts_ * state_bytes());
    };
    for_each_task(where, tasks_of_merging(), merge);
  }

 private:
  /// Rows that share the reading of a block of keys. More would not make it cheaper.
  static constexpr index_t most_rows = 32;

  index_t queries() const noexcept { return rows_.q.extent(2); }
  index_t tasks_of_merging() const noexcept { return rows_.q.extent(0) * kv_heads_ * chunks_; }
  index_t tasks() const noexcept { return tasks_of_merging() * parts_; }

  step_rows rows_of(index_t number) const noexcept {
    const index_t chunk = number % chunks_, group = number / chunks_ % kv_heads_;
    const index_t first = chunk * most_rows;
    return {static_cast<int>(number / (chunks_ * kv_heads_)), static_cast<int>(group * heads_),
            static_cast<int>(queries()), static_cast<int>(first),
            static_cast<int>(std::min(most_rows, heads_ * queries() - first))};
  }

  /// Of the longest sequence; others leave some of them empty.
  template <class Segment>
  index_t parts_of(const Segment& segment) const noexcept {
    index_t most = 0;
    for (index_t b = 0; b < rows_.q.extent(0); ++b)
      for (index_t g = 0; g < kv_heads_; ++g)
        most = std::max(most, split_.parts(segment.keys.source(b, g).count, shape::keys));
    return most;
  }

  step_workspace<T, A> space_at(scratch_cursor& cursor) const noexcept {
    return {cursor, rows_.q.extent(3), rows_.out.extent(3), static_cast<int>(rows_a_chunk_),
            static_cast<bool>(rows_.bias)};
  }
  index_t worker_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    space_at(cursor);
    return round_up(cursor.used(), cache_line);
  }
  step_state<T> take_state(scratch_cursor& cursor) const noexcept {
    const index_t pitch = conflict_free_pitch<T>(rows_.out.extent(3));
    T* const output = cursor.take<T>(rows_a_chunk_ * pitch);
    T* const reference = cursor.take<T>(rows_a_chunk_);
    return {output, reference, cursor.take<T>(rows_a_chunk_), pitch};
  }
  step_state<T> state_at(std::byte* memory) const noexcept {
    scratch_cursor cursor(memory);
    return take_state(cursor);
  }
  index_t state_bytes() const noexcept {
    scratch_cursor cursor(nullptr);
    take_state(cursor);
    return cursor.used();
  }

  void attend_part(const step_workspace<T, A>& space, const step_rows& at, index_t part,
                   const step_state<T>& state) const {
    std::fill_n(state.reference, rows_a_chunk_, -std::numeric_limits<T>::infinity());
    std::fill_n(state.sum, rows_a_chunk_, T(0));
    std::fill_n(state.output, rows_a_chunk_ * state.pitch, T(0));
    load_queries(space, at);
    index_t number = 0;
    for_each_segment_([&](const auto& segment) {
      if (number++ == part / parts_of_segment_) attend_segment(space, at, segment, part % parts_of_segment_, state);
    });
  }

  void load_queries(const step_workspace<T, A>& space, const step_rows& at) const noexcept {
    using P = pack<T, A>;
    const P factor(static_cast<T>(chain_.plain() ? rows_.scale * double(log2_e<T>) : rows_.scale));
    std::fill_n(space.queries, rows_a_chunk_ * space.query_pitch, T(0));
    for (int r = 0; r < at.count; ++r) {
      T* const row = space.queries + r * space.query_pitch;
      convert_row<T, A>(&rows_.q(at.sequence, at.head(r), at.query(r), 0), row, rows_.q.extent(3));
      for (index_t e = 0; e < rows_.q.extent(3); e += P::lanes)
        (P::load_aligned(row + e) * factor).store_aligned(row + e);
    }
  }

  /// Calls f(integral_constant<rows>, first row) for panels of the rows of a chunk, few sizes of them.
  template <class F>
  static void for_panels(int count, F f) {
    int r = 0;
    for (; count - r > shape::rows / 2; r += shape::rows) f(std::integral_constant<int, shape::rows>{}, r);
    if constexpr (shape::rows > 2)
      if (count - r == 2) f(std::integral_constant<int, 2>{}, r);
    if (count - r == 1) f(std::integral_constant<int, 1>{}, r);
  }

  template <class Segment>
  void attend_segment(const step_workspace<T, A>& space, const step_rows& at, const Segment& segment, index_t part,
                      const step_state<T>& state) const {
    const auto source = segment.keys.source(at.sequence, at.first_head / heads_);
    const int queries_at = static_cast<int>(segment.first_query(at.sequence, queries()));
    const int keys_at = static_cast<int>(segment.first_key(at.sequence));
    key_range seen{INT_MAX, INT_MIN};
    for (int r = 0, some; r < at.count; r += some) {
      some = at.of_one_head(r, at.count - r);
      const int first = queries_at + at.query(r);
      const key_range of_head = segment.mask.keys(at.sequence, at.head(r), first, first + some);
      seen = {std::min(seen.begin, of_head.begin), std::max(seen.end, of_head.end)};
    }
    const index_t each = split_.keys(source.count, shape::keys);
    const index_t begin = std::max(part * each, (index_t(seen.begin) - keys_at) / shape::keys * shape::keys);
    const index_t end = std::min({(part + 1) * each, source.count, index_t(seen.end) - keys_at});
    for (index_t first = begin; first < end; first += shape::keys) {
      step_block block{first, static_cast<int>(std::min<index_t>(shape::keys, end - first)), queries_at,
                       keys_at + static_cast<int>(first), chain_.plain() && !rows_.bias};
      if (!sees(at, segment, block)) continue;
      score(space, at, source, block);
      for_panels(at.count, [&](auto panel, int r) {
        constexpr int together = decltype(panel)::value;
        T* const scores = scores_of(space, r);
        if (!block.plain) finish<together>(space, at, r, segment, block, scores);
        std::fill(scores + block.count * together, scores + round_up(block.count * together, shape::width),
                  -std::numeric_limits<T>::infinity());
        weigh_scores<together, T, A>(scores, block.count, vectors_of(rows_.out.extent(3)), from_row(state, r));
      });
      add_values(space, at, source, block, state);
    }
  }

  /// Whether any row sees any key of a block; if a row may not see all of them, the block is not plain.
  template <class Segment>
  static bool sees(const step_rows& at, const Segment& segment, step_block& block) {
    bool any = false;
    for (int r = 0, some; r < at.count; r += some) {
      some = at.of_one_head(r, at.count - r);
      const int query = block.query + at.query(r);
      const tile_class seen =
          segment.mask.classify(at.sequence, at.head(r), query, query + some, block.key, block.key + block.count);
      any = any || seen != tile_class::empty;
      block.plain = block.plain && seen == tile_class::full;
    }
    return any;
  }

  static T* scores_of(const step_workspace<T, A>& space, int r) noexcept {
    return space.scores + r * space.scores_of_row;
  }

  template <class Source>
  void score(const step_workspace<T, A>& space, const step_rows& at, const Source& source,
             const step_block& block) const noexcept {
    const index_t features = rows_.q.extent(3);
    for_whole_rows<keys_of, T, A>(
        source, block.first, block.count, features, space.copies, space.query_pitch,
        [&](const auto* rows, index_t stride, int some, int row, const auto* ahead, row_scales scales) {
          for_panels(at.count, [&](auto panel, int r) {
            constexpr int together = decltype(panel)::value;
            T* const scores = scores_of(space, r) + row * together;
            dot_panel<together, T, A>(space.queries + r * space.query_pitch, space.query_pitch,
                                      strided_rows<std::remove_reference_t<decltype(*rows)>>{rows, stride}, some,
                                      r == 0 ? ahead - rows : 0, vectors_of(features), scores);
            scale_keys<together>(scores, some, scales);
          });
        });
  }

  template <class Source>
  void add_values(const step_workspace<T, A>& space, const step_rows& at, const Source& source, const step_block& block,
                  const step_state<T>& state) const noexcept {
    const index_t features = rows_.out.extent(3);
    const int vectors = vectors_of(features);
    for_whole_rows<values_of, T, A>(
        source, block.first, block.count, features, space.copies, space.value_pitch,
        [&](const auto* rows, index_t stride, int some, int row, const auto* ahead, row_scales scales) {
          for_panels(at.count, [&](auto panel, int r) {
            constexpr int together = decltype(panel)::value;
            T* const weights = scores_of(space, r) + row * together;
            T* const weights_end = weights + some * together;
            T* const sums = state.output + r * state.pitch;
            scale_keys<together>(weights, some, scales);
            // Values of excluded pairs must not reach the result, not even times zero.
            if (!block.plain && std::find(weights, weights_end, T(0)) != weights_end)
              weighted_sum_carefully<together, T, A>(weights, rows, stride, some, vectors, sums, state.pitch);
            else
              weighted_sum_panel<together, T, A>(weights, rows, stride, some, r == 0 ? ahead : rows, vectors, sums,
                                                 state.pitch);
          });
        });
  }

  /// Softcap, bias, mods and mask, for the rows of each head in turn: scores become logits.
  template <int Rows, class Segment>
  void finish(const step_workspace<T, A>& space, const step_rows& at, int panel, const Segment& segment,
              const step_block& block, T* scores) const {
    constexpr int pitch = step_workspace<T, A>::pitch;
    alignas(64) static constexpr T zeros[pitch] = {};
    alignas(64) T top[pitch];
    for (int r = 0, some; r < Rows && panel + r < at.count; r += some) {
      some = at.of_one_head(panel + r, std::min(Rows - r, at.count - panel - r));
      const int head = at.head(panel + r), query = at.query(panel + r);
      const int groups = (some + shape::width - 1) / shape::width;
      for (int j = 0; j < block.count; ++j) {
        std::fill_n(space.tile + j * pitch, groups * shape::width, T(0));
        std::copy_n(scores + j * Rows + r, some, space.tile + j * pitch);
      }
      if (rows_.bias)
        load_bias<T, A>(bias_rows<S>{&rows_.bias(at.sequence, head, 0, 0), rows_.bias.stride(2), rows_.bias.stride(3)},
                        query, some, block.first, block.count, space.bias);
      std::fill_n(top, groups * shape::width, -std::numeric_limits<T>::infinity());
      finish_scores<T, A>(space.tile, space.bias, top, zeros, {0, block.count, 0, groups},
                          {at.sequence, head, block.query + query, block.key}, true, false, true, false, segment.mask,
                          chain_);
      for (int j = 0; j < block.count; ++j) std::copy_n(space.tile + j * pitch, some, scores + j * Rows + r);
    }
  }

  static int vectors_of(index_t features) noexcept {
    return static_cast<int>((features + shape::width - 1) / shape::width);
  }
  static step_state<T> from_row(const step_state<T>& state, int r) noexcept {
    return {state.output + r * state.pitch, state.reference + r, state.sum + r, state.pitch};
  }

  /// Adds up the states of all parts, in their order, and the sink.
  void merge_parts(const step_rows& at, std::byte* states) const noexcept {
    using P = pack<T, A>;
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    const index_t features = rows_.out.extent(3);
    for (int r = 0; r < at.count; ++r) {
      const int head = at.head(r), query = at.query(r);
      const auto state_of = [&](index_t part) { return from_row(state_at(states + part * state_bytes()), r); };
      const T sink = rows_.sink ? rows_.sink[head] * log2_e<T> : nothing;
      T top = sink;
      for (index_t part = 0; part < parts_; ++part) top = std::max(top, *state_of(part).reference);
      T sum = sink == nothing ? T(0) : std::exp2(sink - top);
      for (index_t part = 0; part < parts_; ++part) {
        const step_state<T> state = state_of(part);
        // Without a reference, sums are 0, or NaN: of logits that are.
        T& weight = *state.reference;
        weight = weight == nothing ? T(0) : std::exp2(weight - top);
        sum += weight * *state.sum;
      }
      const P inverse(sum == T(0) ? T(0) : 1 / sum);
      S* const out = &rows_.out(at.sequence, head, query, 0);
      for (index_t e = 0; e < features; e += P::lanes) {
        P total(T(0));
        for (index_t part = 0; part < parts_; ++part) {
          const step_state<T> state = state_of(part);
          total = fma(P(*state.reference), P::load_aligned(state.output + e), total);
        }
        const int some = static_cast<int>(std::min<index_t>(P::lanes, features - e));
        if (some == P::lanes)
          store_as(out + e, total * inverse);
        else
          store_first_as(out + e, total * inverse, some);
      }
      if (rows_.lse) rows_.lse(at.sequence, head, query) = sum == T(0) ? nothing : top * ln_2<T> + std::log(sum);
    }
  }

  const softmax_rows<S>& rows_;
  const ForEachSegment& for_each_segment_;
  score_chain<Mods...> chain_;
  step_split split_;
  index_t kv_heads_, heads_ = 0;  // query heads a kv head
  index_t chunks_ = 0, rows_a_chunk_ = 0;
  index_t parts_of_segment_ = 0;  // of the longest; others leave some of them empty
  index_t parts_ = 0;             // of a sequence, over all segments
};

/// Scratch depends on neither softcap, masks nor mods.
template <class A, class S, class ForEachSegment>
index_t softmax_step_bytes(const softmax_rows<S>& rows, index_t kv_heads, const ForEachSegment& for_each_segment,
                           step_split split, const executor_ref& where) noexcept {
  return softmax_step_run<A, S, ForEachSegment>(rows, kv_heads, for_each_segment, split, {}).bytes(where);
}

template <class A, class S, class ForEachSegment, class... Mods>
void run_softmax_step(const checker& check, const softmax_rows<S>& rows, index_t kv_heads,
                      const ForEachSegment& for_each_segment, step_split split, const score_chain<Mods...>& chain,
                      scratch_view scratch, const executor_ref& where) {
  softmax_step_run<A, S, ForEachSegment, Mods...>(rows, kv_heads, for_each_segment, split, chain)
      .run(check, scratch, where);
}

}  // namespace detail
HEED_ARCH_END
