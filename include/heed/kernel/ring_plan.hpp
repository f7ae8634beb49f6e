/// The schedule of a ring: whose keys a rank works on in each step, where its rows stand, and which steps there are.
#pragma once

#include <heed/core/scratch.hpp>
#include <heed/core/token_layout.hpp>
#include <heed/core/transport.hpp>
#include <heed/kernel/placed_mods.hpp>
#include <heed/kernel/softmax_rows.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Shards travel to the next rank: in step s, a rank works on the keys of the rank s before it.
struct ring_plan {
  token_layout queries, keys;
  index_t q_offset, kv_offset;  // positions of tokens 0
  int rank;

  int ranks() const noexcept { return queries.ranks(); }
  int next() const noexcept { return (rank + 1) % ranks(); }
  int previous() const noexcept { return (rank + ranks() - 1) % ranks(); }
  int source(int step) const noexcept { return (rank + ranks() - step) % ranks(); }

  /// By how much the row of the key that is nearest to a query is above the query's, as a rule.
  int rows_ahead(int source) const noexcept {
    if (queries.count(rank) == 0 || keys.count(source) == 0) return 0;
    const index_t distance = queries.token(rank, 0) + q_offset - keys.token(source, 0) - kv_offset;
    const bool spread = keys.how() == token_layout::rule::striped;
    constexpr index_t most = 1 << 29;
    return static_cast<int>(std::clamp(spread ? distance / ranks() : distance, -most, most));
  }

  index_t largest_shard() const noexcept {
    index_t most = 0;
    for (int r = 0; r < ranks(); ++r) most = std::max(most, keys.count(r));
    return most;
  }
};

/// Calls f(begin, end) for the ranges of positions in which the rows of a rank stand.
template <class F>
void for_position_ranges(const token_layout& layout, int rank, index_t offset, const F& f) {
  for (index_t piece = 0, row = 0; piece < layout.pieces(); ++piece) {
    const index_t rows = layout.piece_rows(rank, static_cast<int>(piece));
    if (rows > 0)
      f(static_cast<int>(layout.token(rank, row) + offset),
        static_cast<int>(layout.token(rank, row + rows - 1) + offset + 1));
    row += rows;
  }
}

/// Whether a mask tells that the queries of this rank see no key of rank `source`.
template <class Mask>
HEED_COLD bool sees_nothing_of(const ring_plan& plan, int source, const windowed<Mask>& mask, index_t batch,
                               index_t heads) {
  bool nothing = true;
  for_position_ranges(plan.queries, plan.rank, plan.q_offset, [&](int q0, int q1) {
    for_position_ranges(plan.keys, source, plan.kv_offset, [&](int k0, int k1) {
      for (index_t i = 0; nothing && i < batch * heads; ++i)
        nothing = mask.classify(static_cast<int>(i / heads), static_cast<int>(i % heads), q0, q1, k0, k1) ==
                  tile_class::empty;
    });
  });
  return nothing;
}

/// The last step in which this rank may see a key.
template <class Mask>
HEED_COLD int last_step_of(const ring_plan& plan, const windowed<Mask>& mask, index_t batch, index_t heads) {
  int step = plan.ranks() - 1;
  while (step > 0 && sees_nothing_of(plan, plan.source(step), mask, batch, heads)) --step;
  return step;
}

/// Numbers of the tokens of a rank, plus `offset`, and the padding that placed mods read.
HEED_COLD inline void list_tokens(const token_layout& layout, int rank, index_t offset, std::int32_t* to) noexcept {
  const index_t count = layout.count(rank);
  for (index_t i = 0; i < count; ++i) to[i] = static_cast<std::int32_t>(layout.token(rank, i) + offset);
  std::fill_n(to + count, position_padding, count > 0 ? to[count - 1] : 0);
}

/// Keys [B,G,m,D] and after them values [B,G,m,E]: what travels in one message.
template <class S>
struct key_value_shard {
  view<S, 4> k, v;

  key_value_shard(S* memory, index_t batch, index_t groups, index_t rows, index_t d, index_t e) noexcept
      : k(memory, {batch, groups, rows, d}),
        v(memory != nullptr ? memory + k.size() : nullptr, {batch, groups, rows, e}) {}

  view<std::byte, 1> bytes() const noexcept {
    return {reinterpret_cast<std::byte*>(k.data()), {(k.size() + v.size()) * index_t(sizeof(S))}};
  }
  static index_t elements(index_t batch, index_t groups, index_t rows, index_t d, index_t e) noexcept {
    return batch * groups * rows * (d + e);
  }
};

/// Copies [B,G,m,D], rows of any stride.
template <class S>
HEED_COLD void copy_rows(const view<const S, 4>& from, const view<S, 4>& to) noexcept {
  for (index_t b = 0; b < to.extent(0); ++b)
    for (index_t g = 0; g < to.extent(1); ++g)
      for (index_t i = 0; i < to.extent(2); ++i) std::copy_n(&from(b, g, i, 0), to.extent(3), &to(b, g, i, 0));
}

/// Gives a transport time while tiles are computed: at every few tiles of the thread that the transport belongs to.
template <class Transport>
class transport_watch {
 public:
  explicit transport_watch(Transport& ranks) noexcept : ranks_(ranks), owner_(&thread_scratch::mine()) {}
  transport_watch(const transport_watch&) = delete;
  transport_watch& operator=(const transport_watch&) = delete;

  tile_watch watch() noexcept {
    return {this, [](void* self) { static_cast<transport_watch*>(self)->look(); }};
  }

 private:
  static constexpr int tiles_between = 8;

  void look() {
    if (&thread_scratch::mine() != owner_ || ++looks_ % tiles_between != 0) return;
    ranks_.poll();
  }

  Transport& ranks_;
  const thread_scratch* owner_;  // which each thread has one of
  unsigned looks_ = 0;
};

}  // namespace detail
HEED_ARCH_END
