/// Random problems of window attention, and what a result's error is in units of what is allowed.
#pragma once

#include "ops/softmax/backward.hpp"
#include "reference/swin.hpp"

#include <heed/ops/local/swin_backward.hpp>
#include <heed/ops/local/swin_forward.hpp>

namespace local_test {

using heed::index_t;
using heed::swin_backward_options;
using heed::swin_options;
using heed::swin_padding;
using heed::tensor;
using heed::token_grid;
using heed::view;
using heed::window_shift;
using softmax_test::worst_gradient;
using support::same_bits;
using support::worse;

struct swin_shape {
  index_t B = 1, H = 1, G = 1;
  token_grid tokens{};
  token_grid window{};
  window_shift shift{};
  bool table = false, attends = false;
  index_t D = 8, E = 8;

  index_t N() const { return tokens.height * tokens.width; }
};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct swin_problem {
  using T = heed::accumulator_t<S>;

  explicit swin_problem(const swin_shape& shape, unsigned seed = 1) : s(shape), random(seed) {
    const auto nan = [](index_t a, index_t b, index_t c, index_t d) {
      return tensor<S, 4>::full({a, b, c, d}, support::quiet_nan<S>);
    };
    q = support::normal_tensor<S, 4>({s.B, s.H, s.N(), s.D}, random);
    k = support::normal_tensor<S, 4>({s.B, s.G, s.N(), s.D}, random);
    v = support::normal_tensor<S, 4>({s.B, s.G, s.N(), s.E}, random);
    dout = support::normal_tensor<S, 4>({s.B, s.H, s.N(), s.E}, random);
    out = nan(s.B, s.H, s.N(), s.E);
    dq = nan(s.B, s.H, s.N(), s.D);
    dk = nan(s.B, s.G, s.N(), s.D);
    dv = nan(s.B, s.G, s.N(), s.E);
    lse = tensor<T, 3>::full({s.B, s.H, s.N()}, support::quiet_nan<T>);
    if (s.table) {
      table = support::normal_tensor<S, 2>({(2 * s.window.height - 1) * (2 * s.window.width - 1), s.H}, random);
      dtable = tensor<S, 2>::full({table.extent(0), s.H}, support::quiet_nan<S>);
    }
    if (s.attends) {
      k_pad = support::normal_tensor<S, 2>({s.G, s.D}, random);
      v_pad = support::normal_tensor<S, 2>({s.G, s.E}, random);
      dk_pad = tensor<S, 2>::full({s.G, s.D}, support::quiet_nan<S>);
      dv_pad = tensor<S, 2>::full({s.G, s.E}, support::quiet_nan<S>);
    }
  }

  swin_shape s;
  support::random_engine random;
  tensor<S, 4> q, k, v, dout, out, dq, dk, dv;
  tensor<T, 3> lse;
  tensor<S, 2> table, dtable, k_pad, v_pad, dk_pad, dv_pad;
};

/// What both passes are told alike.
template <class Options, class S>
Options told(const swin_problem<S>& p, heed::executor_ref where = {}) {
  Options o;
  o.tokens = p.s.tokens;
  o.window = p.s.window;
  o.shift = p.s.shift;
  if (p.s.table) o.table = p.table;
  if (p.s.attends) {
    o.padding = swin_padding::attend;
    o.k_pad = p.k_pad;
    o.v_pad = p.v_pad;
  }
  o.executor = where;
  return o;
}

template <class S>
swin_options<S> forward_options(swin_problem<S>& p, heed::executor_ref where = {}) {
  auto o = told<swin_options<S>>(p, where);
  o.lse = p.lse;
  return o;
}

template <class S>
swin_backward_options<S> backward_options(swin_problem<S>& p, heed::executor_ref where = {}) {
  auto o = told<swin_backward_options<S>>(p, where);
  if (p.s.table) o.dtable = p.dtable;
  if (p.s.attends) {
    o.dk_pad = p.dk_pad;
    o.dv_pad = p.dv_pad;
  }
  return o;
}

template <class A, class S>
void solve_on(swin_problem<S>& p, heed::executor_ref where = {}) {
  heed::detail::swin_forward_on<A, S>(p.q, p.k, p.v, p.out, forward_options(p, where));
  heed::detail::swin_backward_on<A, S>(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv,
                                       backward_options(p, where));
}

template <class S>
void solve(swin_problem<S>& p, heed::executor_ref where = {}) {
  solve_on<heed::default_arch, S>(p, where);
}

template <class S>
reference::swin_attention<S> definition(const swin_problem<S>& p) {
  reference::swin_attention<S> x{
      p.q,         p.k,        p.v, p.s.tokens.height, p.s.tokens.width, p.s.window.height, p.s.window.width,
      p.s.shift.y, p.s.shift.x};
  x.table = p.table;
  x.k_pad = p.k_pad;
  x.v_pad = p.v_pad;
  return x;
}

/// The worst error of everything that p has after solve, where 1 is the most that is allowed.
template <class S>
double error_of(const swin_problem<S>& p) {
  const reference::swin_attention<S> x = definition(p);
  double worst = softmax_test::worst_error<S>(p.out, p.lse, reference::swin(x));
  const reference::swin_gradients g = reference::swin_backward(x, p.dout);
  worst = worse(worst, worst_gradient<S, 4>(p.dq, g.rows.dq, g.rows.dq_noise));
  worst = worse(worst, worst_gradient<S, 4>(p.dk, g.rows.dk, g.rows.dk_noise));
  worst = worse(worst, worst_gradient<S, 4>(p.dv, g.rows.dv, g.rows.dv_noise));
  if (p.s.table) worst = worse(worst, worst_gradient<S, 2>(p.dtable, g.dtable, g.dtable_noise));
  if (p.s.attends) {
    worst = worse(worst, worst_gradient<S, 2>(p.dk_pad, g.dk_pad, g.dk_pad_noise));
    worst = worse(worst, worst_gradient<S, 2>(p.dv_pad, g.dv_pad, g.dv_pad_noise));
  }
  return worst;
}

template <class S>
bool same_result(const swin_problem<S>& a, const swin_problem<S>& b) {
  return same_bits<S, 4>(a.out, b.out) && same_bits<heed::accumulator_t<S>, 3>(a.lse, b.lse) &&
         same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) && same_bits<S, 4>(a.dv, b.dv) &&
         same_bits<S, 2>(a.dtable, b.dtable) && same_bits<S, 2>(a.dk_pad, b.dk_pad) &&
         same_bits<S, 2>(a.dv_pad, b.dv_pad);
}

}  // namespace local_test

#include "ops/local/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::swin_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::swin_backward_on<heed::default_arch, float>);
