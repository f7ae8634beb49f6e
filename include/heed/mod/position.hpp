/// What mods are: the position they see, the classes of tiles, and the concepts that tell one kind from the other.
///
/// A mask mod answers "may this query see this key?", a score mod changes the score of a pair. Both are callables;
/// which of the two a callable is, its number of parameters says: `m(at)` or `f(score, at)`. docs/mods.md is the tour.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <climits>
#include <concepts>
#include <type_traits>

HEED_ARCH_BEGIN

/// Where a pair of query and key stands. `q` and `kv` are positions: index plus offset of the call. A kernel that works
/// on several queries at once instantiates it with a pack of integers for `q`; `kv`, `b` and `h` are always plain.
template <class Index>
struct basic_position {
  int b;    ///< batch entry; sequence number in a packed batch
  int h;    ///< query head
  Index q;  ///< query position
  int kv;   ///< key position
};

/// The position of one pair.
using position = basic_position<int>;

/// What a mask says of all pairs of a rectangle of positions.
/// `empty` promises that none is visible, `full` that all are; `partial` promises nothing.
enum class tile_class { empty, partial, full };

/// Key positions [begin, end) outside of which nothing is visible. The default is unbounded.
struct key_range {
  int begin = INT_MIN;
  int end = INT_MAX;
};

/// Base of every mask that `&`, `|` and `!` compose. Deriving from it also lets argument-dependent lookup find them.
struct mask_base {};

template <class M>
concept mask_like = std::derived_from<std::remove_cvref_t<M>, mask_base>;

/// Callable as m(at) -> bool: a lambda, a function, or a named mask.
template <class F>
concept mask_callable = std::is_invocable_r_v<bool, const F&, const position&>;

/// Callable as f(score, at) -> score, T being the type that scores are accumulated in.
template <class F, class T>
concept score_callable = std::is_invocable_r_v<T, const F&, T, const position&>;

/// Whether a mod takes packs, lanes being queries; the others are called lane by lane. A callable is generic if its
/// parameters are `auto` or template parameters. Asking a generic lambda instantiates its body, so an `if` on a pack in
/// it is an error there; a lambda that wants one spells its types: `[](float s, heed::position at) { ... }`.
template <class F, class IndexPack>
concept generic_mask = std::is_invocable_v<const F&, const basic_position<IndexPack>&>;
template <class F, class Pack, class IndexPack>
concept generic_score = std::is_invocable_r_v<Pack, const F&, Pack, const basic_position<IndexPack>&>;

/// A mask that can answer for rectangles, so that kernels skip what is empty and leave full tiles alone.
/// q0, q1, k0, k1: half-open ranges of positions, neither empty.
template <class M>
concept classifying_mask = requires(const M& m, int i) {
  { m.classify(i, i, i, i, i, i) } -> std::same_as<tile_class>;
};

/// A mask that bounds the keys a range of queries can see, so that kernels need not even look at the others.
template <class M>
concept bounded_mask = requires(const M& m, int i) {
  { m.keys(i, i, i, i) } -> std::same_as<key_range>;
};

/// A score mod that wants the gradients by its results, for tables too large to be parameters: softmax_backward calls
/// mod.accumulate(dz, s, at) for visible pairs, dz being the gradient by what the mod made of score s. Pairs with
/// dz = 0 may be left out. Calls for one head come one after the other, in an order that never varies; those for
/// different heads may come at the same time, unless `mod.one_head_at_a_time()` is there and true. None come if
/// `mod.accumulates()` is there and false.
template <class F, class T>
concept accumulating_score = requires(const F& f, T x, const position& at) { f.accumulate(x, x, at); };

namespace detail {

template <class F>
bool accumulates(const F& f) {
  if constexpr (requires { bool(f.accumulates()); })
    return f.accumulates();
  else
    return true;
}

template <class F>
bool one_head_at_a_time(const F& f) {
  if constexpr (requires { bool(f.one_head_at_a_time()); })
    return f.one_head_at_a_time();
  else
    return false;
}

/// The nearest position to a number that may have left the range of int.
HEED_INLINE constexpr int to_position(index_t x) noexcept {
  return x < INT_MIN ? INT_MIN : x > INT_MAX ? INT_MAX : static_cast<int>(x);
}

/// The smallest range that holds both.
HEED_INLINE constexpr key_range hull(key_range a, key_range b) noexcept {
  if (a.begin >= a.end) return b;
  if (b.begin >= b.end) return a;
  return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}

/// What both have in common.
HEED_INLINE constexpr key_range overlap(key_range a, key_range b) noexcept {
  const int begin = a.begin > b.begin ? a.begin : b.begin, end = a.end < b.end ? a.end : b.end;
  return {begin, end > begin ? end : begin};
}

/// Of claims that hold for all pairs of a tile, the class.
HEED_INLINE constexpr tile_class class_of(bool is_empty, bool is_full) noexcept {
  return is_empty ? tile_class::empty : is_full ? tile_class::full : tile_class::partial;
}

template <class M>
tile_class classify(const M& mask, int b, int h, int q0, int q1, int k0, int k1) {
  if constexpr (classifying_mask<M>)
    return mask.classify(b, h, q0, q1, k0, k1);
  else
    return tile_class::partial;
}

template <class M>
key_range visible_keys(const M& mask, int b, int h, int q0, int q1) {
  if constexpr (bounded_mask<M>)
    return mask.keys(b, h, q0, q1);
  else
    return {};
}

}  // namespace detail
HEED_ARCH_END
