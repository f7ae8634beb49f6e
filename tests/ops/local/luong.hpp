/// Random problems of Luong's attention, solved and measured against the definition.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/luong.hpp"
#include "support/random.hpp"

#include <heed/ops/local/luong_dot.hpp>
#include <heed/ops/local/luong_local.hpp>
#include <heed/ops/local/luong_mlp.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace local_test {

using heed::index_t;
using heed::tensor;
using heed::view;
using support::quiet_nan;
using support::same_bits;
using support::worse;

/// The three operators of the page.
enum class luong_score { dot, mlp, local };

struct luong_shape {
  index_t B = 1, N = 1, S = 1, A = 8, E = 8;  // A = E but for mlp
};

struct luong_settings {
  luong_score score = luong_score::dot;
  std::optional<index_t> reach{};  // given for local
  index_t first_step = 0;
  bool padded = false;
  std::optional<double> sigma{};
};

/// Inputs N(0, 1), smaller for dot so that no state has all the weight; outputs full of NaN.
template <class S>
struct luong_problem {
  using T = heed::accumulator_t<S>;

  luong_problem(const luong_shape& s, const luong_settings& settings, unsigned seed = 1) : how(settings), random(seed) {
    const bool mlp = how.score == luong_score::mlp;
    q = support::normal_tensor<S, 3>({s.B, s.N, s.A}, random, 0.6);
    k = support::normal_tensor<S, 3>({s.B, s.S, s.A}, random);
    h_s = mlp ? support::normal_tensor<S, 3>({s.B, s.S, s.E}, random) : k;
    dout = support::normal_tensor<S, 3>({s.B, s.N, h_s.extent(2)}, random);
    v_a = support::normal_tensor<T, 1>({s.A}, random);
    positions = tensor<T, 2>({s.B, s.N});
    for (index_t b = 0; b < s.B; ++b) lengths.push_back(how.padded && b % 2 == 0 ? s.S * 2 / 3 : s.S);
    for (T& p : positions) p = static_cast<T>(double(s.S) * double(support::draw(random, 1, 999)) / 1000);
    out = tensor<S, 3>::full({s.B, s.N, h_s.extent(2)}, quiet_nan<S>);
    dq = tensor<S, 3>::full({s.B, s.N, s.A}, quiet_nan<S>);
    dk = tensor<S, 3>::full({s.B, s.S, s.A}, quiet_nan<S>);
    dh_s = tensor<S, 3>::full({s.B, s.S, h_s.extent(2)}, quiet_nan<S>);
    lse = tensor<T, 2>::full({s.B, s.N}, quiet_nan<T>);
    dpositions = lse;
    dv_a = tensor<T, 1>::full({s.A}, quiet_nan<T>);
  }

  luong_settings how;
  support::random_engine random;
  tensor<S, 3> q, k, h_s, dout, out, dq, dk, dh_s;
  tensor<T, 1> v_a, dv_a;
  tensor<T, 2> positions, lse, dpositions;
  std::vector<index_t> lengths;
};

template <class A, class S>
void solve_dot_on(luong_problem<S>& p, heed::luong_options<S> forward, const heed::luong_backward_options& backward) {
  heed::detail::luong_dot_forward_on<A, S>(p.q, p.h_s, p.out, forward);
  heed::detail::luong_dot_backward_on<A, S>(p.q, p.h_s, p.out, p.lse, p.dout, p.dq, p.dh_s, backward);
}

template <class A, class S>
void solve_mlp_on(luong_problem<S>& p, heed::luong_options<S> forward, const heed::luong_backward_options& backward) {
  heed::detail::luong_mlp_forward_on<A, S>(p.q, p.k, p.v_a, p.h_s, p.out, forward);
  heed::detail::luong_mlp_backward_on<A, S>(p.q, p.k, p.v_a, p.h_s, p.out, p.lse, p.dout, p.dq, p.dk, p.dv_a, p.dh_s,
                                            backward);
}

template <class A, class S>
void solve_local_on(luong_problem<S>& p, heed::executor_ref where = {}) {
  heed::luong_local_options<S> forward{.reach = *p.how.reach, .lse = p.lse, .executor = where};
  heed::luong_local_backward_options backward{.reach = *p.how.reach, .executor = where};
  if (p.how.padded) forward.lengths = backward.lengths = p.lengths;
  if (p.how.sigma) forward.sigma = backward.sigma = *p.how.sigma;
  heed::detail::luong_local_forward_on<A, S>(p.q, p.h_s, p.positions, p.out, forward);
  heed::detail::luong_local_backward_on<A, S>(p.q, p.h_s, p.positions, p.out, p.lse, p.dout, p.dq, p.dh_s, p.dpositions,
                                              backward);
}

template <class S>
void solve(luong_problem<S>& p, heed::executor_ref where = {}) {
  using A = heed::default_arch;
  heed::luong_options<S> forward{.first_step = p.how.first_step, .lse = p.lse, .executor = where};
  heed::luong_backward_options backward{.first_step = p.how.first_step, .executor = where};
  if (p.how.padded) forward.lengths = backward.lengths = p.lengths;
  if (p.how.reach) forward.reach = backward.reach = *p.how.reach;
  if (p.how.score == luong_score::dot)
    solve_dot_on<A>(p, forward, backward);
  else if (p.how.score == luong_score::mlp)
    solve_mlp_on<A>(p, forward, backward);
  else
    solve_local_on<A>(p, where);
}

template <int Rank, class S>
tensor<double, Rank> in_double(const tensor<S, Rank>& t) {
  index_t extents[Rank];
  for (int axis = 0; axis < Rank; ++axis) extents[axis] = t.extent(axis);
  tensor<double, Rank> d(extents);
  for (index_t i = 0; i < t.size(); ++i) d.data()[i] = static_cast<double>(t.data()[i]);
  return d;
}

template <class S>
reference::luong_attention definition_of(const luong_problem<S>& p) {
  reference::luong_attention a{.q = in_double(p.q),
                               .k = in_double(p.k),
                               .h_s = in_double(p.h_s),
                               .lengths = p.lengths,
                               .reach = p.how.reach,
                               .first_step = p.how.first_step};
  if (p.how.score == luong_score::mlp) a.v_a = in_double(p.v_a);
  if (p.how.score == luong_score::local) {
    a.positions = in_double(p.positions);
    a.sigma = p.how.sigma.value_or(double(*p.how.reach) / 2);
  }
  return a;
}

/// Gradients in the order of the operators' outputs: where keys are values, those of both added.
inline reference::luong_gradients joined(reference::luong_gradients g, luong_score score) {
  for (index_t i = 0; score != luong_score::mlp && i < g.dh_s.size(); ++i) g.dh_s.data()[i] += g.dk.data()[i];
  return g;
}

/// The worst error of both passes, where 1 is the most that is allowed.
template <class S>
double error_of(const luong_problem<S>& p) {
  using T = heed::accumulator_t<S>;
  using linear_test::error;
  constexpr double allowed = linear_test::gradient_tolerance<S>, of_numbers = linear_test::gradient_tolerance<T>;
  const reference::luong_attention a = definition_of(p);
  const reference::luong_result r = reference::luong(a);
  // out is rounded before it meets dout again.
  const reference::luong_gradients g = joined(reference::luong_backward(a, in_double(p.dout)), p.how.score);
  double worst = error<S, 3>(p.out, r.out);
  for (index_t i = 0; i < p.lse.size(); ++i) {
    const double expected = r.lse.data()[i], got = static_cast<double>(p.lse.data()[i]);
    if (got != expected) worst = worse(worst, std::fabs(got - expected) / (2e-5 * (1 + std::fabs(expected))));
  }
  worst = worse(worst, error<S, 3>(p.dq, g.dq, allowed));
  worst = worse(worst, error<S, 3>(p.dh_s, g.dh_s, allowed));
  constexpr double of_sums = sizeof(S) == 2 ? allowed : of_numbers;
  if (p.how.score == luong_score::mlp) {
    worst = worse(worst, error<S, 3>(p.dk, g.dk, allowed));
    worst = worse(worst, error<T, 1>(p.dv_a, g.dv_a, of_sums));
  }
  if (p.how.score == luong_score::local) worst = worse(worst, error<T, 2>(p.dpositions, g.dpositions, of_sums));
  return worst;
}

template <class S>
bool same_result(const luong_problem<S>& a, const luong_problem<S>& b) {
  using T = heed::accumulator_t<S>;
  return same_bits<S, 3>(a.out, b.out) && same_bits<T, 2>(a.lse, b.lse) && same_bits<S, 3>(a.dq, b.dq) &&
         same_bits<S, 3>(a.dk, b.dk) && same_bits<S, 3>(a.dh_s, b.dh_s) && same_bits<T, 1>(a.dv_a, b.dv_a) &&
         same_bits<T, 2>(a.dpositions, b.dpositions);
}

}  // namespace local_test

#include "ops/local/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::luong_dot_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::luong_dot_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::luong_mlp_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::luong_mlp_backward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::luong_local_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::luong_local_backward_on<heed::default_arch, float>);
