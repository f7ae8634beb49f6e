/// From products to logits: softcap, additive bias, score mods and masks, applied to a stored tile of scores.
#pragma once

#include <heed/kernel/tile_shape.hpp>
#include <heed/mod/dual.hpp>
#include <heed/mod/parametric.hpp>
#include <heed/mod/position.hpp>
#include <heed/simd/convert.hpp>
#include <heed/simd/math.hpp>

#include <limits>
#include <tuple>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

template <class T>
inline constexpr T ln_2 = T(0.693147180559945309417L);

/// Calls a mask for the queries of a vector: with packs if it is generic, lane by lane if its parameters are concrete.
template <class T, class A, class Mask>
HEED_INLINE mask_pack<T, A> visible(const Mask& mask, const basic_position<index_pack<T, A>>& at) {
  if constexpr (std::is_invocable_v<const Mask&, const basic_position<index_pack<T, A>>&>) {
    return mask_pack<T, A>(mask(at));
  } else {
    constexpr int n = lanes<T, A>;
    alignas(64) lane_int_t<T> query[n];
    alignas(64) T seen[n];
    at.q.store(query);
    for (int i = 0; i < n; ++i) seen[i] = mask(position{at.b, at.h, static_cast<int>(query[i]), at.kv}) ? T(1) : T(0);
    return pack<T, A>::load_aligned(seen) != pack<T, A>(T(0));
  }
}

/// The same for vector `vector` of a tile, which some masks know more about than its positions say.
template <class T, class A, class Mask>
HEED_INLINE mask_pack<T, A> visible(const Mask& mask, const basic_position<index_pack<T, A>>& at, int vector) {
  if constexpr (requires { mask.lanes_that_see(at.kv, vector); })
    return mask.lanes_that_see(at.kv, vector);
  else
    return visible<T, A>(mask, at);
}

/// Calls a score mod for the queries of a vector, in the same two ways.
template <class T, class A, class Mod>
HEED_INLINE pack<T, A> modified(const Mod& mod, pack<T, A> score, const basic_position<index_pack<T, A>>& at) {
  if constexpr (std::is_invocable_v<const Mod&, pack<T, A>, const basic_position<index_pack<T, A>>&>) {
    return pack<T, A>(mod(score, at));
  } else {
    constexpr int n = lanes<T, A>;
    alignas(64) lane_int_t<T> query[n];
    alignas(64) T each[n];
    at.q.store(query);
    score.store_aligned(each);
    for (int i = 0; i < n; ++i)
      each[i] = static_cast<T>(mod(each[i], position{at.b, at.h, static_cast<int>(query[i]), at.kv}));
    return pack<T, A>::load_aligned(each);
  }
}

/// The same for dual numbers.
template <class T, class A, class Mod, int K>
HEED_INLINE dual<pack<T, A>, K> modified(const Mod& mod, const dual<pack<T, A>, K>& score,
                                         const basic_position<index_pack<T, A>>& at) {
  using number = dual<pack<T, A>, K>;
  if constexpr (std::is_invocable_v<const Mod&, number, const basic_position<index_pack<T, A>>&>) {
    return number(mod(score, at));
  } else {
    constexpr int n = lanes<T, A>;
    alignas(64) lane_int_t<T> query[n];
    alignas(64) T each[K + 1][n];
    at.q.store(query);
    score.value.store_aligned(each[K]);
    for (int m = 0; m < K; ++m) score.partial[m].store_aligned(each[m]);
    for (int i = 0; i < n; ++i) {
      dual<T, K> z(each[K][i]);
      for (int m = 0; m < K; ++m) z.partial[m] = each[m][i];
      z = dual<T, K>(mod(z, position{at.b, at.h, static_cast<int>(query[i]), at.kv}));
      each[K][i] = z.value;
      for (int m = 0; m < K; ++m) each[m][i] = z.partial[m];
    }
    number result(pack<T, A>::load_aligned(each[K]));
    for (int m = 0; m < K; ++m) result.partial[m] = pack<T, A>::load_aligned(each[m]);
    return result;
  }
}

/// What may stand among score mods besides, and is no step from score to score.
///
/// A pair score compares queries and keys itself, where others take their products:
///     score.template compare<Vectors, T, A>(keys, count, queries, features, start, scores)    as key_panel
///     score.template differentiate<T, A>(keys, count, queries, features, low, high, gradients, query_gradients,
///                                        key_sums, pitch, learned)                           for gradient_tile
///     score.learned()                         how many numbers it learns
///     score.store_learned(sums, task count, apart)  their gradients, from those of every task
/// A value factor multiplies weights where they meet values; denominators know nothing of it:
///     factor.template of<T, A>(position pack)   for the queries of a vector: f(kv), and f.slope(kv, f(kv)) by what
///                                               the factor of a query depends on
///     factor.template add<T>(position, x)       adds to the gradient by that
template <class Mod>
inline constexpr bool is_pair_score = requires { typename Mod::pair_score_tag; };
template <class Mod>
inline constexpr bool is_value_factor = requires { typename Mod::value_factor_tag; };

/// The first of `mods` that is wanted.
template <class Wanted, class First, class... Rest>
HEED_INLINE const auto& first_of(const First& first, const Rest&... rest) noexcept {
  if constexpr (Wanted::template is<First>)
    return first;
  else
    return first_of<Wanted>(rest...);
}
struct pair_scores {
  template <class Mod>
  static constexpr bool is = is_pair_score<Mod>;
};
struct value_factors {
  template <class Mod>
  static constexpr bool is = is_value_factor<Mod>;
};

/// The score part of a call, between the scaled product and the mask. `plain` scores need no pass of their own.
template <class... Mods>
struct score_chain {
  double softcap = 0;
  std::tuple<const Mods&...> mods;

  /// Numbers that the mods learn.
  static constexpr int parameters = (0 + ... + parameters_of<Mods>);
  static constexpr bool has_pair_score = (false || ... || is_pair_score<Mods>);
  static constexpr bool has_value_factor = (false || ... || is_value_factor<Mods>);

  bool plain() const noexcept { return sizeof...(Mods) == 0 && softcap == 0; }

  const auto& pair_score() const noexcept
    requires has_pair_score
  {
    return std::apply([](const auto&... mod) -> const auto& { return first_of<pair_scores>(mod...); }, mods);
  }
  const auto& value_factor() const noexcept
    requires has_value_factor
  {
    return std::apply([](const auto&... mod) -> const auto& { return first_of<value_factors>(mod...); }, mods);
  }

  /// Numbers that the mods and the pair score learn.
  index_t learned() const noexcept {
    if constexpr (has_pair_score)
      return parameters + pair_score().learned();
    else
      return parameters;
  }
};

/// Rows [first, first + count) of a stored tile and the vectors [low, high) of queries that they concern.
struct tile_part {
  int first, count;
  int low, high;
};

/// Where the tile stands: batch entry, head, position of the tile's first query and first key.
struct tile_place {
  int b, h;
  int query;
  int key;
};

/// The queries of vector `v` of a tile.
template <class T, class A>
HEED_INLINE basic_position<index_pack<T, A>> queries_at(const tile_place& place, int v) noexcept {
  return {place.b, place.h, index_pack<T, A>::counting_from(place.query + v * tile_shape<T, A>::width), place.key};
}

/// Softcap, additive bias and score mods of a call.
template <class T, class A, class... Mods>
class score_steps {
 public:
  using P = pack<T, A>;

  HEED_INLINE explicit score_steps(const score_chain<Mods...>& chain) noexcept
      : chain_(chain),
        cap_(static_cast<T>(chain.softcap)),
        per_cap_(static_cast<T>(chain.softcap > 0 ? 1 / chain.softcap : 0)),
        bias_factor_(chain.plain() ? log2_e<T> : T(1)) {}

  /// The logit of a scaled product, for numbers that are packs or that know derivatives of packs. `bias` points to the
  /// lanes of the pair, or is null; `careful`: a bias of -inf excludes whatever the product is.
  template <class Number>
  HEED_INLINE Number operator()(Number z, const T* bias, bool careful,
                                const basic_position<index_pack<T, A>>& at) const {
    if constexpr (count == 0) {
      return biased(z, bias, careful);
    } else {
      Number result = modify<0, count>(biased(z, bias, careful), at);
      exclude(result, bias);
      return result;
    }
  }

  /// Whatever score mods made of a score: a bias of -inf excludes its pair.
  template <class Number>
  HEED_INLINE void exclude(Number& z, const T* bias) const {
    if (bias != nullptr) value_of(z) = excluded_by(P::load_aligned(bias), value_of(z));
  }

  /// The score before its first mod.
  template <class Number>
  HEED_INLINE Number biased(Number z, const T* bias, bool careful) const {
    if (chain_.softcap > 0) z = cap_ * tanh(z * per_cap_);
    if (bias != nullptr) {
      const P added = P::load_aligned(bias);
      P& sum = value_of(z);
      sum = fma(added, bias_factor_, sum);
      if (careful) sum = excluded_by(added, sum);
    }
    return z;
  }

  /// Score mods [Begin, End). Where z has variables for parameters, those of the first are from `First` on.
  template <int Begin, int End, int First = 1, class Number>
  HEED_INLINE Number modify(Number z, const basic_position<index_pack<T, A>>& at) const {
    if constexpr (Begin >= End) {
      return z;
    } else {
      using mod_type = std::tuple_element_t<Begin, std::tuple<Mods...>>;
      constexpr int own = parameters_of<mod_type>;
      const auto& mod = std::get<Begin>(chain_.mods);
      if constexpr (is_pair_score<mod_type> || is_value_factor<mod_type>)
        ;
      else if constexpr (own > 0 && variables_of<Number> > 1)
        z = modified<T, A>(seeded_score<mod_type, First>{mod}, z, at);
      else
        z = modified<T, A>(mod, z, at);
      return modify<Begin + 1, End, First + own>(z, at);
    }
  }

 private:
  static constexpr int count = sizeof...(Mods);

  HEED_INLINE static P excluded_by(P bias, P z) noexcept {
    return select(bias == P(-std::numeric_limits<T>::infinity()), bias, z);
  }

  template <class Number>
  static constexpr int variables_of = [] {
    if constexpr (is_dual<Number>)
      return Number::partials;
    else
      return 0;
  }();
  HEED_INLINE static P& value_of(P& z) noexcept { return z; }
  template <int K>
  HEED_INLINE static P& value_of(dual<P, K>& z) noexcept {
    return z.value;
  }

  const score_chain<Mods...>& chain_;
  P cap_, per_cap_, bias_factor_;
};

/// Finishes stored scores in place: softcap, additive bias, score mods, mask.
///
/// scores [key][query lane] hold the scaled products; `bias`, of the same layout, is added after the softcap, or null.
/// If the chain is plain, the products are times log2(e) already and began at `start`; else the logit z gets both here.
/// `biased`: they began at the bias too, which only excludes then.
/// `weigh`: scores become weights 2^z, and `total` [lane] their sum. Otherwise they become z, and `total` its maximum.
/// `careful`: a bias of -inf excludes whatever the product is, and the result tells whether a bias or a score mod
/// excluded some pair. Otherwise NaN may come out of a product that is one.
template <class T, class A, class Mask, class... Mods>
bool finish_scores(T* scores, const T* bias, T* total, const T* start, tile_part part, tile_place place, bool masked,
                   bool weigh, bool careful, bool biased, const Mask& mask, const score_chain<Mods...>& chain) {
  using P = pack<T, A>;
  using shape = tile_shape<T, A>;
  constexpr T excluded = -std::numeric_limits<T>::infinity();
  const bool plain = chain.plain();
  const score_steps<T, A, Mods...> to_logit(chain);
  P lowest(T(0));
  for (int v = part.low; v < part.high; ++v) {
    basic_position<index_pack<T, A>> at = queries_at<T, A>(place, v);
    const P first = P::load_aligned(start + v * shape::width);
    P reached = P::load_aligned(total + v * shape::width);
    const auto finish = [&](int j, auto common) {
      at.kv = place.key + j;
      T* const here = scores + j * shape::queries + v * shape::width;
      P z = P::load_aligned(here);
      if constexpr (common)
        z = to_logit.template modify<0, sizeof...(Mods)>(z, at);
      else if (const T* const added = bias == nullptr ? nullptr : bias + j * shape::queries + v * shape::width; biased)
        to_logit.exclude(z, added);
      else if (!plain || bias != nullptr)
        z = to_logit(z, added, careful, at);
      if (!common && careful) lowest = min(z, lowest);
      if (common || !plain) z = fma(z, P(log2_e<T>), first);
      if (!common && masked) z = select(visible<T, A>(mask, at, v), z, P(excluded));
      if (common || weigh) {
        reached += z = weight_of(z);
      } else {
        reached = max(z, reached);
      }
      z.store_aligned(here);
    };
    const int end = part.first + part.count;
    if constexpr (sizeof...(Mods) == 0) {
      // Weights of products alone, without the questions that do not arise there.
      if (plain && weigh && !careful && bias == nullptr) {
        const auto finish_product = [&](int j, auto hides) {
          T* const here = scores + j * shape::queries + v * shape::width;
          P z = P::load_aligned(here);
          if constexpr (hides) {
            at.kv = place.key + j;
            z = select(visible<T, A>(mask, at, v), z, P(excluded));
          }
          reached += z = weight_of(z);
          z.store_aligned(here);
        };
        if (masked)
          for (int j = part.first; j < end; ++j) finish_product(j, std::true_type{});
        else
          for (int j = part.first; j < end; ++j) finish_product(j, std::false_type{});
        reached.store_aligned(total + v * shape::width);
        continue;
      }
    }
    // The common case of a score mod, in the same way.
    if (sizeof...(Mods) > 0 && weigh && !careful && !masked && bias == nullptr && chain.softcap == 0) {
#pragma GCC unroll 2
      for (int j = part.first; j < end; ++j) finish(j, std::bool_constant<(sizeof...(Mods) > 0)>{});
    } else {
      for (int j = part.first; j < end; ++j) finish(j, std::false_type{});
    }
    reached.store_aligned(total + v * shape::width);
  }
  return any(lowest == P(excluded));
}

}  // namespace detail
HEED_ARCH_END
