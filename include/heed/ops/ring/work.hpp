/// How much each rank of a ring has to do in each step.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/token_layout.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/ring_plan.hpp>
#include <heed/kernel/softmax_checks.hpp>

HEED_BEGIN

/// Options of ring_work. Fields that are named as in ring_options mean the same.
struct ring_work_options {
  token_layout layout{};
  token_layout kv_layout{};
  index_t window_left = -1;
  index_t window_right = -1;
  setting<index_t> q_offset{};
  index_t kv_offset = 0;
  /// The batch entry and query head that are asked about.
  int batch_entry = 0;
  int head = 0;
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

/// Rows of queries and of keys.
struct row_rectangle {
  int q0, q1, k0, k1;
};

/// Pairs of a rectangle of rows that a mask shows: cut in halves until it is all or nothing.
template <class Mask>
index_t visible_pairs(const placed_mask<Mask>& mask, int b, int h, const row_rectangle& r) {
  if (r.q0 >= r.q1 || r.k0 >= r.k1) return 0;
  const index_t queries = r.q1 - r.q0, keys = r.k1 - r.k0;
  const tile_class seen = mask.classify(b, h, r.q0, r.q1, r.k0, r.k1);
  if (seen == tile_class::empty) return 0;
  if (seen == tile_class::full) return queries * keys;
  if (queries == 1 && keys == 1) return mask.shows({b, h, r.q0, r.k0}) ? 1 : 0;
  if (queries >= keys) {
    const int middle = static_cast<int>(r.q0 + queries / 2);
    return visible_pairs(mask, b, h, {r.q0, middle, r.k0, r.k1}) +
           visible_pairs(mask, b, h, {middle, r.q1, r.k0, r.k1});
  }
  const int middle = static_cast<int>(r.k0 + keys / 2);
  return visible_pairs(mask, b, h, {r.q0, r.q1, r.k0, middle}) + visible_pairs(mask, b, h, {r.q0, r.q1, middle, r.k1});
}

}  // namespace detail

/// Pairs of query and key that rank `rank` works on in step `step` of a ring: a pure function of layouts and mask, the
/// same on every rank. A step takes as long as its slowest rank.
///
///     heed::ring_work(rank, step, {.layout = heed::striped_layout(N, P)}, heed::causal{})
///
/// mask: at most one, as of ring_forward; windows are options. Those that classify (docs/mods.md) cost time in proportion
/// to the tokens, others to the pairs. Allocates 4 bytes a token of the two shards.
/// Throws heed::invalid_argument: no layout, layouts of different ranks, a rank or step beyond them, windows below -1.
template <class... Mods>
  requires(sizeof...(Mods) <= 1 && (... && detail::is_mask<Mods>))
index_t ring_work(int rank, int step, const ring_work_options& options, const Mods&... mask) {
  const detail::checker check("ring_work");
  const token_layout keys = options.kv_layout ? options.kv_layout : options.layout;
  check.require(static_cast<bool>(options.layout), "options.layout", "a layout", "none");
  check.require(keys.ranks() == options.layout.ranks(), "options.kv_layout", "as many ranks as options.layout",
                keys.ranks());
  check.require(rank >= 0 && rank < keys.ranks(), "rank", "a rank of the layouts", rank);
  check.require(step >= 0 && step < keys.ranks(), "step", "less than ranks", step);
  detail::check_window(check, options.window_left, options.window_right);
  const index_t q_offset = options.q_offset.or_default(keys.tokens() - options.layout.tokens());
  detail::check_positions(check, options.layout.tokens(), keys.tokens(), q_offset, options.kv_offset);

  const detail::ring_plan plan{options.layout, keys, q_offset, options.kv_offset, rank};
  const int source = plan.source(step), own = static_cast<int>(plan.queries.count(rank)),
            others = static_cast<int>(keys.count(source));
  tensor<std::int32_t, 1> query_positions({own + detail::position_padding}),
      key_positions({others + detail::position_padding});
  detail::list_tokens(plan.queries, rank, q_offset, query_positions.data());
  detail::list_tokens(keys, source, options.kv_offset, key_positions.data());
  const detail::placement place{query_positions.data(), key_positions.data(), own, others};
  const auto& seen = detail::find_mask(mask...);
  using mask_type = std::remove_cvref_t<decltype(seen)>;
  const detail::placed_mask<mask_type> placed{place, {options.window_left, options.window_right, seen}};
  return detail::visible_pairs(placed, options.batch_entry, options.head, {0, own, 0, others});
}

HEED_ARCH_END
