/// Problems of neighborhood attention, and what the error of their results is in units of what is allowed.
#pragma once

#include "ops/softmax/backward.hpp"
#include "reference/neighborhood.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <heed/local.hpp>

#include <string>
#include <vector>

namespace neighborhood_test {

using heed::index_t;
using heed::neighborhood_axis;
using heed::neighborhood_backward_options;
using heed::neighborhood_options;
using heed::tensor;
using heed::view;
using support::same_bits;
using support::worse;

using axes_list = std::vector<neighborhood_axis>;

struct shape {
  axes_list axes;
  index_t B = 1, H = 1, G = 1, D = 8, E = 8;
  index_t M2 = 0;     // extra keys
  bool bias = false;  // a table of relative positions
};

/// For messages.
inline std::string name_of(const shape& s) {
  std::string name;
  for (const auto& a : s.axes)
    name += std::to_string(a.length) + ":w" + std::to_string(a.window) + ":s" + std::to_string(a.stride) + ":d" +
            std::to_string(a.dilation) + (a.causal ? ":causal " : " ");
  for (const index_t n : {s.B, s.H, s.G, s.D, s.E, s.M2}) name += std::to_string(n) + " ";
  return name + (s.bias ? "bias" : "");
}

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct problem {
  using T = heed::accumulator_t<S>;

  explicit problem(const shape& s, unsigned seed = 1) : of(s), pairs(s.axes), random(seed) {
    const index_t N = pairs.tokens();
    const auto normal = [&](index_t heads, index_t rows, index_t features) {
      return support::normal_tensor<S, 4>({s.B, heads, rows, features}, random);
    };
    q = normal(s.H, N, s.D);
    k = normal(s.G, N, s.D);
    v = normal(s.G, N, s.E);
    dout = normal(s.H, N, s.E);
    dlse = support::normal_tensor<T, 3>({s.B, s.H, N}, random);
    if (s.M2 > 0) {
      k_extra = normal(s.G, s.M2, s.D);
      v_extra = normal(s.G, s.M2, s.E);
    }
    if (s.bias) bias = support::normal_tensor<S, 2>({s.H, pairs.entries()}, random);
    clear();
  }

  /// Fills outputs with NaN.
  void clear() {
    const auto nan = [](const tensor<S, 4>& like) {
      return tensor<S, 4>::full({like.extent(0), like.extent(1), like.extent(2), like.extent(3)},
                                support::quiet_nan<S>);
    };
    out = nan(dout);
    dq = nan(q);
    dk = nan(k);
    dv = nan(v);
    if (of.M2 > 0) {
      dk_extra = nan(k_extra);
      dv_extra = nan(v_extra);
    }
    if (of.bias) dbias = tensor<S, 2>::full({of.H, pairs.entries()}, support::quiet_nan<S>);
    lse = tensor<T, 3>::full({of.B, of.H, pairs.tokens()}, support::quiet_nan<T>);
  }

  neighborhood_options<S> forward_options() {
    neighborhood_options<S> o;
    o.scale = scale;
    o.softcap = softcap;
    o.lse = lse;
    if (of.bias) o.bias = bias;
    if (of.M2 > 0) {
      o.k_extra = k_extra;
      o.v_extra = v_extra;
    }
    return o;
  }
  neighborhood_backward_options<S> backward_options() {
    neighborhood_backward_options<S> o;
    o.scale = scale;
    o.softcap = softcap;
    o.dlse = dlse;
    if (of.bias) {
      o.bias = bias;
      o.dbias = dbias;
    }
    if (of.M2 > 0) {
      o.k_extra = k_extra;
      o.v_extra = v_extra;
      o.dk_extra = dk_extra;
      o.dv_extra = dv_extra;
    }
    return o;
  }
  reference::neighborhood_arguments<S> arguments() const {
    reference::neighborhood_arguments<S> a{q, k, v, {}, {}, {}, {}, softcap};
    if (scale.given()) a.scale = scale.or_default(0);
    if (of.bias) a.bias = bias;
    if (of.M2 > 0) {
      a.k_extra = k_extra;
      a.v_extra = v_extra;
    }
    return a;
  }

  shape of;
  reference::neighborhood_pairs pairs;
  support::random_engine random;
  heed::setting<double> scale{};
  double softcap = 0;
  tensor<S, 4> q, k, v, dout, k_extra, v_extra, out, dq, dk, dv, dk_extra, dv_extra;
  tensor<S, 2> bias, dbias;
  tensor<T, 3> lse, dlse;
};

template <class A, class S>
void solve_on(problem<S>& p, heed::executor_ref executor = {}) {
  auto forward = p.forward_options();
  forward.executor = executor;
  heed::detail::neighborhood_forward_on<A, S>(p.q, p.k, p.v, p.out, std::span<const neighborhood_axis>(p.of.axes),
                                              forward);
  auto backward = p.backward_options();
  backward.executor = executor;
  heed::detail::neighborhood_backward_on<A, S>(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv,
                                               std::span<const neighborhood_axis>(p.of.axes), backward);
}

template <class S>
void solve(problem<S>& p, heed::executor_ref executor = {}) {
  solve_on<heed::default_arch>(p, executor);
}

/// The largest error of all results of a solved problem, where 1 is the most that is allowed.
template <class S>
double error_of(const problem<S>& p) {
  const auto arguments = p.arguments();
  double worst = softmax_test::worst_error<S>(p.out, p.lse, reference::neighborhood(arguments, p.pairs));
  const auto expected = reference::neighborhood_backward<S>(arguments, p.pairs, p.dout, p.dlse);
  const index_t M2 = p.of.M2, M = M2 + p.pairs.tokens();
  const auto& all = expected.all;
  const auto compare = [&](const tensor<S, 4>& got, const tensor<double, 4>& wanted, const tensor<double, 4>& noise,
                           index_t begin, index_t end) {
    worst = worse(worst, softmax_test::worst_gradient<S, 4>(got, wanted.all().slice(2, begin, end),
                                                            noise.all().slice(2, begin, end)));
  };
  compare(p.dq, all.dq, all.dq_noise, 0, M - M2);
  compare(p.dk, all.dk, all.dk_noise, M2, M);
  compare(p.dv, all.dv, all.dv_noise, M2, M);
  if (M2 > 0) {
    compare(p.dk_extra, all.dk, all.dk_noise, 0, M2);
    compare(p.dv_extra, all.dv, all.dv_noise, 0, M2);
  }
  if (p.of.bias)
    worst = worse(worst, softmax_test::worst_gradient<S, 2>(p.dbias, expected.table, expected.table_noise));
  return worst;
}

template <class S>
bool same_results(const problem<S>& a, const problem<S>& b) {
  bool same = same_bits<S, 4>(a.out, b.out) && same_bits<typename problem<S>::T, 3>(a.lse, b.lse) &&
              same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) && same_bits<S, 4>(a.dv, b.dv);
  if (a.of.M2 > 0) same = same && same_bits<S, 4>(a.dk_extra, b.dk_extra) && same_bits<S, 4>(a.dv_extra, b.dv_extra);
  if (a.of.bias) same = same && same_bits<S, 2>(a.dbias, b.dbias);
  return same;
}

/// Borders of boxes, tiles and blocks; windows equal to the axis, odd and even; dilations that do not divide the axis.
inline std::vector<shape> shapes() {
  return {{{{2, 2}}},
          {{{9, 4}}, 2, 4, 2, 5, 3},
          {{{200, 31}}, 1, 2, 1, 16, 9, 3, true},
          {{{150, 150}}, 1, 2, 2, 8, 8},
          {{{64, 8, 8}}, 1, 1, 1, 8, 8},
          {{{101, 6, 3, 4}}, 2, 2, 1, 7, 12, 2},
          {{{90, 40, 5, 2, true}}, 1, 2, 1, 8, 8},
          {{{17, 5}, {19, 4}}, 1, 2, 1, 8, 17, 0, true},
          {{{13, 13}, {9, 9}}, 1, 2, 2, 9, 8, 1, true},
          {{{3, 2}, {70, 9}}, 1, 1, 1, 8, 8, 130},
          {{{20, 3, 2, 3}, {11, 4, 4, 2, true}}, 2, 2, 1, 8, 5, 2},
          {{{16, 4, 1, 3}, {15, 3, 1, 4}}, 1, 2, 1, 4, 4, 0, true},
          {{{5, 3}, {6, 4}, {7, 5}}, 1, 4, 2, 8, 8, 1, true},
          {{{4, 2, 1, 2, true}, {5, 5, 2}, {8, 3, 3, 2}}, 1, 2, 1, 6, 6},
          {{{7, 2}}, 0, 2, 1},
          {{{7, 2}}, 1, 0, 0}};
}

}  // namespace neighborhood_test

#include "ops/local/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::neighborhood_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::neighborhood_backward_on<heed::default_arch, float>);
