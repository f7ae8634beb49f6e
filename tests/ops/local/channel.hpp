/// Random problems of channel attention.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/channel.hpp"
#include "support/random.hpp"

#include <heed/ops/local/channel_backward.hpp>
#include <heed/ops/local/channel_forward.hpp>

namespace local_test {

using heed::channel_options;
using heed::index_t;
using heed::tensor;
using heed::view;
using linear_test::error;
using support::same_bits;
using support::worse;

struct channel_shape {
  index_t B = 1, H = 1, N = 1, C = 8;
};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct channel_problem {
  explicit channel_problem(const channel_shape& s, unsigned seed = 1) : random(seed) {
    for (tensor<S, 4>* t : {&q, &k, &v, &dout}) *t = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.C}, random);
    for (tensor<S, 4>* t : {&out, &dq, &dk, &dv}) *t = tensor<S, 4>::full({s.B, s.H, s.N, s.C}, support::quiet_nan<S>);
  }

  support::random_engine random;
  tensor<S, 4> q, k, v, dout, out, dq, dk, dv;
};

template <class A, class S>
void solve_on(channel_problem<S>& p, const channel_options& options = {}) {
  heed::detail::channel_forward_on<A, S>(p.q, p.k, p.v, p.out, options);
  heed::detail::channel_backward_on<A, S>(p.q, p.k, p.v, p.dout, p.dq, p.dk, p.dv,
                                          {.scale = options.scale, .executor = options.executor});
}

template <class S>
void solve(channel_problem<S>& p, const channel_options& options = {}) {
  solve_on<heed::default_arch, S>(p, options);
}

/// The worst error of everything that p has after solve, where 1 is the most that is allowed.
template <class S>
double error_of(const channel_problem<S>& p, const channel_options& options = {}) {
  const reference::channel_attention x{reference::in_double(p.q), reference::in_double(p.k), reference::in_double(p.v),
                                       options.scale.or_default(1 / std::sqrt(static_cast<double>(p.q.extent(3))))};
  double worst = error<S>(p.out, reference::channel(x));
  const reference::channel_gradients g = reference::channel_backward(x, reference::in_double(p.dout));
  constexpr double allowed = linear_test::gradient_tolerance<S>;
  worst = worse(worst, error<S>(p.dq, g.dq, allowed));
  worst = worse(worst, error<S>(p.dk, g.dk, allowed));
  return worse(worst, error<S>(p.dv, g.dv, allowed));
}

template <class S>
bool same_result(const channel_problem<S>& a, const channel_problem<S>& b) {
  return same_bits<S, 4>(a.out, b.out) && same_bits<S, 4>(a.dq, b.dq) && same_bits<S, 4>(a.dk, b.dk) &&
         same_bits<S, 4>(a.dv, b.dv);
}

}  // namespace local_test
