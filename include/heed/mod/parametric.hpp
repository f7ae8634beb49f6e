/// Score mods whose parameters are learned: softmax_backward returns their gradients.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/view.hpp>
#include <heed/mod/dual.hpp>
#include <heed/mod/position.hpp>

#include <array>
#include <concepts>
#include <type_traits>
#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// The type of a parameter beside a score: that of one element of a pack.
template <class S>
struct parameter_of {
  using type = S;
};
template <class S>
  requires requires { typename S::element_type; }
struct parameter_of<S> {
  using type = typename S::element_type;
};
template <class P, int K>
struct parameter_of<dual<P, K>> : parameter_of<P> {};

}  // namespace detail

/// A score mod with K numbers to learn.   z = f(score, at, w), w[0] .. w[K - 1] the parameters; see with_parameters.
template <int K, class F>
class parametric_score {
 public:
  static constexpr int parameters = K;

  parametric_score(F f, view<const double, 1> values, view<double, 1> gradients)
      : f_(std::move(f)), values_(values), gradients_(gradients) {
    const detail::checker check("with_parameters");
    check.extent(values, "values", 0, K, "K, the number of parameters");
    if (gradients) check.extent(gradients, "gradients", 0, K, "K, the number of parameters");
  }

  template <class S, class Index>
    requires std::invocable<const F&, S, const basic_position<Index>&,
                            const std::array<typename detail::parameter_of<S>::type, K>&>
  HEED_INLINE S operator()(S score, const basic_position<Index>& at) const {
    std::array<typename detail::parameter_of<S>::type, K> w;
    for (int i = 0; i < K; ++i)
      w[static_cast<std::size_t>(i)] = static_cast<typename detail::parameter_of<S>::type>(values_[i]);
    return S(f_(score, at, w));
  }

  /// The same with the parameters as variables `first` .. `first` + K - 1 of the dual numbers.
  template <class P, int Partials, class Index>
    requires std::invocable<const F&, dual<P, Partials>, const basic_position<Index>&,
                            const std::array<dual<P, Partials>, K>&>
  HEED_INLINE dual<P, Partials> differentiate(dual<P, Partials> score, const basic_position<Index>& at,
                                              int first) const {
    std::array<dual<P, Partials>, K> w;
    for (int i = 0; i < K; ++i) {
      const auto value = static_cast<typename detail::parameter_of<P>::type>(values_[i]);
      w[static_cast<std::size_t>(i)] = dual<P, Partials>::variable(P(value), first + i);
    }
    return dual<P, Partials>(f_(score, at, w));
  }

  /// Where backward writes to, or empty.
  const view<double, 1>& gradients() const noexcept { return gradients_; }

 private:
  F f_;
  view<const double, 1> values_;
  view<double, 1> gradients_;
};

/// Makes f(score, at, w) a score mod with the K parameters w that `values` holds. softmax_backward writes the gradient
/// by each to `gradients`, if given. Both are [K] and must outlive the mod; values are read anew in every call.
///
///     auto mod = heed::with_parameters<1>([](auto s, auto at, const auto& w) { return s - w[0] * (at.q - at.kv); },
///                                         slope, slope_gradient);
///
/// Throws heed::invalid_argument: other extents.
template <int K, class F>
parametric_score<K, F> with_parameters(F f, std::type_identity_t<view<const double, 1>> values,
                                       std::type_identity_t<view<double, 1>> gradients = {}) {
  return parametric_score<K, F>(std::move(f), values, gradients);
}

namespace detail {

template <class Mod>
inline constexpr int parameters_of = [] {
  if constexpr (requires { Mod::parameters; })
    return Mod::parameters;
  else
    return 0;
}();

/// A mod with parameters as one that is called with dual numbers, whose variables from `First` on they are.
template <class Mod, int First>
struct seeded_score {
  const Mod& mod;

  template <class P, int Partials, class Index>
    requires requires(const Mod& m, dual<P, Partials> s, const basic_position<Index>& at) {
      m.differentiate(s, at, First);
    }
  HEED_INLINE dual<P, Partials> operator()(dual<P, Partials> score, const basic_position<Index>& at) const {
    return mod.differentiate(score, at, First);
  }
};

}  // namespace detail
HEED_ARCH_END
