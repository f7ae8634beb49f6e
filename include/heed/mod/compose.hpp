/// Masks out of masks: `a & b`, `a | b`, `!a`, and `mask_mod` that makes a user's callable take part.
#pragma once

#include <heed/config.hpp>
#include <heed/mod/position.hpp>
#include <heed/mod/scalar.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

HEED_ARCH_BEGIN
namespace detail {

template <class M>
inline constexpr bool has_interval_keys = [] {
  if constexpr (requires { M::interval_keys; })
    return M::interval_keys;
  else
    return false;
}();

}  // namespace detail

/// A mask whose keys() is exact for one query: it sees all of [begin, end) and nothing else, and neither bound
/// decreases from one query to the next. Such masks declare `static constexpr bool interval_keys = true`.
template <class M>
concept interval_mask = bounded_mask<M> && detail::has_interval_keys<M>;

/// A user's callable as an operand of `&`, `|`, `!`:   visible = f(at)
///
///     heed::causal{} & heed::mask_mod{[](auto at) { return at.kv % 2 == 0; }}
///
/// Its tiles are all partial. An operator takes a lambda as its only mask without this wrapping.
template <class F>
struct mask_mod : mask_base {
  static_assert(mask_callable<F>, "heed::mask_mod: needs a callable f(heed::position) -> bool");

  explicit mask_mod(F function) : f(std::move(function)) {}

  template <class Index>
    requires std::invocable<const F&, const basic_position<Index>&>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const {
    return f(at);
  }

  F f;
};

/// visible = a and b. Tiles: empty if either is, full if both are. Keys: those in both ranges.
template <mask_like A, mask_like B>
struct and_mask : mask_base {
  static constexpr bool interval_keys = interval_mask<A> && interval_mask<B>;

  and_mask(A first, B second) : a(std::move(first)), b(std::move(second)) {}

  template <class Index>
    requires(std::invocable<const A&, const basic_position<Index>&> &&
             std::invocable<const B&, const basic_position<Index>&>)
  HEED_INLINE auto operator()(const basic_position<Index>& at) const {
    return detail::both(a(at), b(at));
  }

  tile_class classify(int batch, int h, int q0, int q1, int k0, int k1) const {
    const tile_class first = detail::classify(a, batch, h, q0, q1, k0, k1);
    if (first == tile_class::empty) return first;
    const tile_class second = detail::classify(b, batch, h, q0, q1, k0, k1);
    return detail::class_of(second == tile_class::empty, first == tile_class::full && second == tile_class::full);
  }

  key_range keys(int batch, int h, int q0, int q1) const {
    return detail::overlap(detail::visible_keys(a, batch, h, q0, q1), detail::visible_keys(b, batch, h, q0, q1));
  }

  A a;
  B b;
};

/// visible = a or b. Tiles: empty if both are, full if either is. Keys: the smallest range that holds both.
template <mask_like A, mask_like B>
struct or_mask : mask_base {
  or_mask(A first, B second) : a(std::move(first)), b(std::move(second)) {}

  template <class Index>
    requires(std::invocable<const A&, const basic_position<Index>&> &&
             std::invocable<const B&, const basic_position<Index>&>)
  HEED_INLINE auto operator()(const basic_position<Index>& at) const {
    return detail::either(a(at), b(at));
  }

  tile_class classify(int batch, int h, int q0, int q1, int k0, int k1) const {
    const tile_class first = detail::classify(a, batch, h, q0, q1, k0, k1);
    if (first == tile_class::full) return first;
    const tile_class second = detail::classify(b, batch, h, q0, q1, k0, k1);
    return detail::class_of(first == tile_class::empty && second == tile_class::empty, second == tile_class::full);
  }

  key_range keys(int batch, int h, int q0, int q1) const {
    return detail::hull(detail::visible_keys(a, batch, h, q0, q1), detail::visible_keys(b, batch, h, q0, q1));
  }

  A a;
  B b;
};

/// visible = not a. Tiles: empty if a is full, full if a is empty. Keys: unbounded.
template <mask_like A>
struct not_mask : mask_base {
  explicit not_mask(A mask) : a(std::move(mask)) {}

  template <class Index>
    requires std::invocable<const A&, const basic_position<Index>&>
  HEED_INLINE auto operator()(const basic_position<Index>& at) const {
    return !a(at);
  }

  tile_class classify(int batch, int h, int q0, int q1, int k0, int k1) const {
    const tile_class inner = detail::classify(a, batch, h, q0, q1, k0, k1);
    return detail::class_of(inner == tile_class::full, inner == tile_class::empty);
  }

  A a;
};

template <mask_like A, mask_like B>
HEED_INLINE and_mask<std::remove_cvref_t<A>, std::remove_cvref_t<B>> operator&(A&& a, B&& b) {
  return {std::forward<A>(a), std::forward<B>(b)};
}
template <mask_like A, mask_like B>
HEED_INLINE or_mask<std::remove_cvref_t<A>, std::remove_cvref_t<B>> operator|(A&& a, B&& b) {
  return {std::forward<A>(a), std::forward<B>(b)};
}
template <mask_like A>
HEED_INLINE not_mask<std::remove_cvref_t<A>> operator!(A&& a) {
  return not_mask<std::remove_cvref_t<A>>(std::forward<A>(a));
}

HEED_ARCH_END
