/// dilated_forward and dilated_backward on random problems, against softmax attention whose visible pairs are spelled
/// out.
#pragma once

#include "ops/softmax/backward.hpp"

#include <heed/mod/compose.hpp>
#include <heed/mod/masks.hpp>
#include <heed/ops/local/dilated.hpp>

#include <cstdlib>

namespace local_test {

using heed::dilated_backward_options;
using heed::index_t;
using heed::tensor;
using heed::view;
using softmax_test::backward_problem;
using softmax_test::shape;

/// Both passes; lse, dq, dk, dv and dsink go to where p has them.
template <class A, class S, class Mask = heed::detail::sees_all>
void solve_dilated_on(backward_problem<S>& p, const dilated_backward_options<S>& o, const Mask& mask = {}) {
  heed::detail::dilated_forward_on<A, S>(p.q, p.k, p.v, p.out,
                                         {.step = o.step,
                                          .reach = o.reach,
                                          .scale = o.scale,
                                          .softcap = o.softcap,
                                          .sink = o.sink,
                                          .lse = p.lse,
                                          .q_offset = o.q_offset,
                                          .kv_offset = o.kv_offset,
                                          .executor = o.executor},
                                         mask);
  dilated_backward_options<S> backward = o;
  if (o.sink) backward.dsink = p.dsink;
  heed::detail::dilated_backward_on<A, S>(p.q, p.k, p.v, p.out, p.lse, p.dout, p.dq, p.dk, p.dv, backward, mask);
}

template <class S, class Mask = heed::detail::sees_all>
void solve_dilated(backward_problem<S>& p, const dilated_backward_options<S>& o, const Mask& mask = {}) {
  solve_dilated_on<heed::default_arch, S>(p, o, mask);
}

/// What the definition is told.
template <class S, class Mask>
reference::softmax_arguments definition_of(const dilated_backward_options<S>& o, const Mask& mask) {
  reference::softmax_arguments a = softmax_test::arguments_of<S>(heed::softmax_options<S>{
      .scale = o.scale, .softcap = o.softcap, .sink = o.sink, .q_offset = o.q_offset, .kv_offset = o.kv_offset});
  a.visible = [&mask, reach = o.reach, step = o.step](int b, int h, int p, int t) {
    const index_t distance = std::abs(index_t(p) - t);
    return distance % step == 0 && (reach < 0 || distance <= reach) &&
           static_cast<bool>(mask(heed::position{b, h, p, t}));
  };
  return a;
}

/// The worst error of both passes, where 1 is the most that is allowed.
template <class A, class S, class Mask>
double dilated_error_on(backward_problem<S>& p, const dilated_backward_options<S>& o, const Mask& mask) {
  solve_dilated_on<A, S>(p, o, mask);
  const reference::softmax_arguments a = definition_of<S>(o, mask);
  const double forward = softmax_test::worst_error<S>(p, reference::softmax<S>(p.q, p.k, p.v, a));
  const auto g = reference::softmax_backward<S>(p.q, p.k, p.v, p.dout, o.dlse, a);
  double worst = softmax_test::worse(forward, softmax_test::worst_error<S>(p, g, p.q.extent(2), p.k.extent(2)));
  using T = heed::accumulator_t<S>;
  if (o.sink) worst = softmax_test::worse(worst, softmax_test::worst_gradient<T, 1>(p.dsink, g.dsink, g.dsink_noise));
  return worst;
}

template <class S>
bool same_passes(const backward_problem<S>& a, const backward_problem<S>& b) {
  return softmax_test::same_result<S>(a, b) && softmax_test::same_gradients(a, b);
}

}  // namespace local_test
