/// Sorts the trailing arguments of an operator into its mask and its score mods.
#pragma once

#include <heed/kernel/score.hpp>
#include <heed/mod/position.hpp>

#include <tuple>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

/// The mask of a call without one.
struct sees_all {
  template <class Index>
  HEED_INLINE bool operator()(const basic_position<Index>&) const noexcept {
    return true;
  }
  tile_class classify(int, int, int, int, int, int) const noexcept { return tile_class::full; }
};

inline constexpr sees_all no_mask{};

template <class Mod>
inline constexpr bool is_mask = mask_callable<Mod>;
template <class Mod, class T>
inline constexpr bool is_score_mod = !is_mask<Mod> && score_callable<Mod, T>;

/// Callable on dual numbers.
template <class Mod, class T>
inline constexpr bool is_differentiable_mod =
    !is_mask<Mod> && std::is_invocable_r_v<dual<T>, const Mod&, dual<T>, const position&>;

template <class... Mods>
inline constexpr int mask_count = (0 + ... + int(is_mask<Mods>));

/// Whether mods are what a call takes: at most one mask, and score mods.
template <class S, class... Mods>
inline constexpr bool are_mods =
    mask_count<Mods...> <= 1 && (... && (is_mask<Mods> || is_score_mod<Mods, accumulator_t<S>>));

/// The one mask among mods, or one that sees all.
inline const sees_all& find_mask() noexcept { return no_mask; }
template <class First, class... Rest>
const auto& find_mask(const First& first, const Rest&... rest) noexcept {
  if constexpr (is_mask<First>)
    return first;
  else
    return find_mask(rest...);
}

/// The score mods among mods, in their order.
template <class Mod>
auto as_score_mod(const Mod& mod) noexcept {
  if constexpr (is_mask<Mod>)
    return std::tuple<>();
  else
    return std::tuple<const Mod&>(mod);
}

template <class... ScoreMods>
score_chain<ScoreMods...> chain_of(double softcap, std::tuple<const ScoreMods&...> mods) noexcept {
  return {softcap, mods};
}

template <class... Mods>
auto find_score_mods(double softcap, const Mods&... mods) noexcept {
  return chain_of(softcap, std::tuple_cat(as_score_mod(mods)...));
}

}  // namespace detail
HEED_ARCH_END
