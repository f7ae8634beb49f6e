/// Masks and score mods for rows that stand anywhere: the engine counts rows, and what is here tells mods the positions
/// that a table has for them.
#pragma once

#include <heed/kernel/mods.hpp>
#include <heed/kernel/score.hpp>
#include <heed/kernel/softmax_rows.hpp>
#include <heed/mod/parametric.hpp>
#include <heed/mod/position.hpp>

#include <algorithm>
#include <tuple>

HEED_ARCH_BEGIN
namespace detail {

/// Readable positions after the last: a vector of rows may begin at any of them.
inline constexpr index_t position_padding = 16;

/// Positions of the query rows and of the key rows of a call, ascending. The engine counts queries from `first` on: its
/// walk starts at the keys whose number is that of the query.
struct placement {
  const std::int32_t* of_queries;
  const std::int32_t* of_keys;
  index_t queries, keys;
  int first = 0;

  HEED_INLINE int of_query(int row) const noexcept { return of_queries[row - first]; }

  HEED_INLINE position operator()(const position& row) const noexcept {
    return {row.b, row.h, of_query(row.q), of_keys[row.kv]};
  }
  /// For rows of queries that follow each other, as the engine's do.
  template <class T, class A>
  HEED_INLINE basic_position<index_pack<T, A>> operator()(const basic_position<index_pack<T, A>>& row) const noexcept {
    using int_type = lane_int_t<T>;
    constexpr int n = lanes<T, A>;
    static_assert(n <= position_padding);
    alignas(64) int_type lane[n];
    row.q.store(lane);
    const std::int32_t* const from = of_queries + (lane[0] - first);
    if constexpr (std::is_same_v<int_type, std::int32_t>) {
      return {row.b, row.h, index_pack<T, A>::load(from), of_keys[row.kv]};
    } else {
      for (int i = 0; i < n; ++i) lane[i] = from[i];
      return {row.b, row.h, index_pack<T, A>::load(lane), of_keys[row.kv]};
    }
  }
};

/// Called once in a while, from whichever thread looks at a tile.
struct tile_watch {
  void* object = nullptr;
  void (*look)(void* object) = nullptr;
};

/// A window and a mask of positions, as a mask of rows.
template <class Mask>
struct placed_mask {
  const placement& place;
  windowed<Mask> mask;
  tile_watch watch{};

  /// The rectangle of positions may have more in it than the rows: what holds for it holds for them. Of causal order and
  /// windows that are wider than the gaps it is exact, as rows stand in its corners.
  tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const {
    if (watch.look != nullptr) watch.look(watch.object);
    return mask.classify(b, h, place.of_query(q0), place.of_query(q1 - 1) + 1, place.of_keys[k0],
                         place.of_keys[k1 - 1] + 1);
  }

  key_range keys(int b, int h, int q0, int q1) const {
    const key_range seen = mask.keys(b, h, place.of_query(q0), place.of_query(q1 - 1) + 1);
    const std::int32_t* const end = place.of_keys + place.keys;
    const std::int32_t* const first = std::lower_bound(place.of_keys, end, seen.begin);
    return {static_cast<int>(first - place.of_keys),
            static_cast<int>(std::lower_bound(first, end, std::max(seen.begin, seen.end)) - place.of_keys)};
  }

  /// One pair of rows.
  bool shows(const position& row) const {
    const position at = place(row);
    const index_t distance = index_t(at.kv) - at.q;
    return (mask.left < 0 || distance >= -mask.left) && (mask.right < 0 || distance <= mask.right) && mask.mask(at);
  }
};

template <class T, class A, class Mask>
HEED_INLINE mask_pack<T, A> visible(const placed_mask<Mask>& mask, const basic_position<index_pack<T, A>>& row) {
  return visible<T, A>(mask.mask, mask.place(row));
}

/// A score mod of positions as one of rows, and what backward asks of it besides. Gradients by parameters go to
/// `to`, not to where the mod has them.
template <class Mod>
struct placed_score {
  static constexpr int parameters = parameters_of<Mod>;

  const placement& place;
  const Mod& mod;
  view<double, 1> to{};

  template <class P, int Partials, class Index>
    requires requires(const Mod& m, dual<P, Partials> s, const basic_position<Index>& at) { m.differentiate(s, at, 0); }
  HEED_INLINE dual<P, Partials> differentiate(dual<P, Partials> score, const basic_position<Index>& row,
                                              int first) const {
    return mod.differentiate(score, place(row), first);
  }
  const view<double, 1>& gradients() const noexcept { return to; }

  template <class T>
    requires accumulating_score<Mod, T>
  void accumulate(T gradient, T score, const position& row) const {
    mod.accumulate(gradient, score, place(row));
  }
  bool accumulates() const { return detail::accumulates(mod); }
  bool one_head_at_a_time() const { return detail::one_head_at_a_time(mod); }
};

template <class T, class A, class Mod>
HEED_INLINE pack<T, A> modified(const placed_score<Mod>& mod, pack<T, A> score,
                                const basic_position<index_pack<T, A>>& row) {
  return modified<T, A>(mod.mod, score, mod.place(row));
}
template <class T, class A, class Mod, int K>
HEED_INLINE dual<pack<T, A>, K> modified(const placed_score<Mod>& mod, const dual<pack<T, A>, K>& score,
                                         const basic_position<index_pack<T, A>>& row) {
  return modified<T, A>(mod.mod, score, mod.place(row));
}

/// The score mods of a call for placed rows. `gradients`: of all their parameters, or empty.
template <class... Mods>
auto place_scores(const placement& place, const score_chain<Mods...>& chain, view<double, 1> gradients) noexcept {
  return std::apply(
      [&](const auto&... mod) {
        index_t first = 0;
        [[maybe_unused]] const auto own = [&](index_t parameters) {
          first += parameters;
          return gradients ? gradients.slice(0, first - parameters, first) : gradients;
        };
        return std::tuple<placed_score<Mods>...>{placed_score<Mods>{place, mod, own(parameters_of<Mods>)}...};
      },
      chain.mods);
}

/// The chain of such mods, which must outlive it.
template <class... Mods>
score_chain<placed_score<Mods>...> chain_placed(double softcap,
                                                const std::tuple<placed_score<Mods>...>& mods) noexcept {
  return std::apply(
      [&](const auto&... mod) {
        return score_chain<placed_score<Mods>...>{softcap, std::tuple<const placed_score<Mods>&...>(mod...)};
      },
      mods);
}

}  // namespace detail
HEED_ARCH_END
