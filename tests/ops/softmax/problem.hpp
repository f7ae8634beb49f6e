/// Random attention problems, and what a result's error is in units of what is allowed.
#pragma once

#include "reference/softmax.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <heed/mod/masks.hpp>
#include <heed/mod/position.hpp>
#include <heed/ops/softmax/forward.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace softmax_test {

using heed::index_t;
using heed::position;
using heed::softmax_options;
using heed::tensor;
using heed::view;
using support::same_bits;
using support::worse;

struct shape {
  index_t B = 1, H = 1, G = 1, N = 1, M = 1, D = 8, E = 8;
};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct problem {
  using storage = S;
  using accumulator = heed::accumulator_t<S>;

  explicit problem(const shape& s, unsigned seed = 1);

  support::random_engine random;
  tensor<S, 4> q, k, v, out;
  tensor<accumulator, 3> lse;
};

template <class S>
problem<S>::problem(const shape& s, unsigned seed) : random(seed) {
  q = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.D}, random);
  k = support::normal_tensor<S, 4>({s.B, s.G, s.M, s.D}, random);
  v = support::normal_tensor<S, 4>({s.B, s.G, s.M, s.E}, random);
  out = tensor<S, 4>::full({s.B, s.H, s.N, s.E}, support::quiet_nan<S>);
  lse = tensor<accumulator, 3>::full({s.B, s.H, s.N}, support::quiet_nan<accumulator>);
}

template <class S>
inline constexpr double roundoff = std::is_same_v<S, double>           ? 0x1p-53
                                   : std::is_same_v<S, float>          ? 0x1p-24
                                   : std::is_same_v<S, heed::bfloat16> ? 0x1p-8
                                                                       : 0x1p-11;

/// error / allowed; equal infinities have no error.
inline double relative_to(double got, double expected, double allowed) {
  if (got == expected) return 0;
  return std::fabs(got - expected) / allowed;
}

/// The largest error of out and lse, where 1 is the most that is allowed: twice the noise of the definition's page.
template <class S>
double worst_error(const view<const S, 4>& out, const view<const heed::accumulator_t<S>, 3>& lse,
                   const reference::softmax_result& expected) {
  using T = heed::accumulator_t<S>;
  constexpr double u = roundoff<T>, u_out = roundoff<S>;
  // Weights below the normal range may be 0, some thousand of them.
  constexpr double underflow = 4096.0 * std::numeric_limits<T>::min();
  double worst = 0;
  for (index_t b = 0; b < out.extent(0); ++b)
    for (index_t h = 0; h < out.extent(1); ++h)
      for (index_t i = 0; i < expected.rows; ++i) {
        if (lse)
          worst = worse(worst, relative_to(static_cast<double>(lse(b, h, i)), expected.lse(b, h, i),
                                           2 * u * expected.lse_noise(b, h, i)));
        for (index_t e = 0; e < out.extent(3); ++e) {
          const double o = expected.out(b, h, i, e);
          const double allowed = 2 * (u * expected.out_noise(b, h, i, e) + u_out * std::fabs(o)) + underflow;
          worst = worse(worst, relative_to(static_cast<double>(out(b, h, i, e)), o, allowed));
        }
      }
  return worst;
}

template <class S>
double worst_error(const problem<S>& p, const reference::softmax_result& expected) {
  return worst_error<S>(p.out, p.lse, expected);
}

/// The definition's arguments for options of a call.
template <class S>
reference::softmax_arguments arguments_of(const softmax_options<S>& options) {
  reference::softmax_arguments a;
  if (options.scale.given()) a.scale = options.scale.or_default(0);
  a.softcap = options.softcap;
  if (options.bias) {
    const auto bias = options.bias;
    a.bias = [bias](int b, int h, index_t i, index_t j) {
      return static_cast<double>(bias(bias.extent(0) == 1 ? 0 : b, bias.extent(1) == 1 ? 0 : h,
                                      bias.extent(2) == 1 ? 0 : i, bias.extent(3) == 1 ? 0 : j));
    };
    a.bias_extents = {bias.extent(0), bias.extent(1), bias.extent(2), bias.extent(3)};
  }
  if (options.sink) {
    const auto sink = options.sink;
    a.sink = [sink](int h) { return static_cast<double>(sink[h]); };
  }
  a.window_left = options.window_left;
  a.window_right = options.window_right;
  if (options.q_offset.given()) a.q_offset = options.q_offset.or_default(0);
  a.kv_offset = options.kv_offset;
  for (index_t s = 0; s < options.cu_seqlens_q.size(); ++s) {
    a.cu_q.push_back(options.cu_seqlens_q.at(s));
    a.cu_k.push_back(options.cu_seqlens_k.at(s));
  }
  return a;
}

/// Adds a mod to the arguments, as what it says of one pair at a time.
template <class Mod>
void add_mod(reference::softmax_arguments& a, const Mod& mod) {
  if constexpr (std::is_invocable_r_v<bool, const Mod&, const position&>)
    a.visible = [&mod](int b, int h, int p, int t) { return static_cast<bool>(mod(position{b, h, p, t})); };
  else
    a.score = [&mod, before = a.score](double s, int b, int h, int p, int t) {
      const double z = before ? before(s, b, h, p, t) : s;
      return static_cast<double>(mod(z, position{b, h, p, t}));
    };
}

/// Solves p with softmax_forward and returns the worst error against the definition. `gain`: of the score mods.
template <class S, class... Mods>
double error_of(problem<S>& p, softmax_options<S> options, double gain, const Mods&... mods) {
  options.lse = p.lse;
  heed::softmax_forward(p.q, p.k, p.v, p.out, options, mods...);
  reference::softmax_arguments arguments = arguments_of<S>(options);
  arguments.gain = gain;
  (add_mod(arguments, mods), ...);
  return worst_error(p, reference::softmax<S>(p.q, p.k, p.v, arguments));
}

template <class S>
double error_of(problem<S>& p, const softmax_options<S>& options = {}) {
  return error_of(p, options, 1);
}

template <class S>
bool same_result(const problem<S>& a, const problem<S>& b) {
  return same_bits<S, 4>(a.out, b.out) && same_bits<typename problem<S>::accumulator, 3>(a.lse, b.lse);
}

template <class S, int Rank>
bool all_finite(const tensor<S, Rank>& t) {
  return std::all_of(t.begin(), t.end(), [](S x) { return std::isfinite(static_cast<double>(x)); });
}

/// Which of the functions of this name it is, where they take mods: over tensors.
template <class S, class... Mods>
using forward_call = void(view<const S, 4>, view<const S, 4>, view<const S, 4>, view<S, 4>, const softmax_options<S>&,
                          const Mods&...);

}  // namespace softmax_test

#include "ops/softmax/instances.hpp"

HEED_TEST_INSTANCE_OF(struct softmax_test::problem<float>);
HEED_TEST_INSTANCE_OF(struct softmax_test::problem<double>);
HEED_TEST_INSTANCE_OF(struct softmax_test::problem<heed::bfloat16>);
HEED_TEST_INSTANCE_OF(struct softmax_test::problem<heed::float16>);
HEED_TEST_INSTANCE(softmax_test::arguments_of<float>);
HEED_TEST_INSTANCE(softmax_test::arguments_of<double>);
HEED_TEST_INSTANCE(softmax_test::arguments_of<heed::bfloat16>);
HEED_TEST_INSTANCE(softmax_test::arguments_of<heed::float16>);
HEED_TEST_INSTANCE(reference::softmax<float>);
HEED_TEST_INSTANCE(reference::softmax<double>);
HEED_TEST_INSTANCE(reference::softmax<heed::bfloat16>);
HEED_TEST_INSTANCE(reference::softmax<heed::float16>);
HEED_TEST_INSTANCE(heed::detail::softmax_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::softmax_forward_on<heed::default_arch, double>);
HEED_TEST_INSTANCE(heed::detail::softmax_forward_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_forward_on<heed::default_arch, heed::float16>);
HEED_TEST_INSTANCE_OF(softmax_test::forward_call<float, heed::causal>
                          heed::detail::softmax_forward_on<heed::default_arch, float, heed::causal>);
HEED_TEST_INSTANCE_OF(softmax_test::forward_call<double, heed::causal>
                          heed::detail::softmax_forward_on<heed::default_arch, double, heed::causal>);
HEED_TEST_INSTANCE_OF(softmax_test::forward_call<heed::bfloat16, heed::causal>
                          heed::detail::softmax_forward_on<heed::default_arch, heed::bfloat16, heed::causal>);
HEED_TEST_INSTANCE_OF(softmax_test::forward_call<float, heed::padding>
                          heed::detail::softmax_forward_on<heed::default_arch, float, heed::padding>);
