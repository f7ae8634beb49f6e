/// Random problems of state space duality, and their definition.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/recurrence.hpp"

#include <heed/ops/linear/ssd.hpp>

#include <cmath>

namespace linear_test {

using heed::recurrence_backward_options;
using heed::recurrence_options;

struct ssd_shape {
  index_t B = 1, H = 1, G = 1, N = 1, S = 8, P = 8;
};

/// Inputs and upstream gradients N(0, 1), steps softplus of them, rates from 0 to -`fastest`; outputs full of NaN.
template <class T>
struct ssd_problem {
  using A = heed::accumulator_t<T>;

  explicit ssd_problem(const ssd_shape& s, double fastest = 1, unsigned seed = 1, index_t sequences = 0)
      : random(seed), shape(s) {
    const index_t states = sequences > 0 ? sequences : s.B;
    const auto normal = [&](index_t heads, index_t features) {
      return support::normal_tensor<T, 4>({s.B, heads, s.N, features}, random);
    };
    const auto nan = [&](index_t heads, index_t features) {
      return tensor<T, 4>::full({s.B, heads, s.N, features}, support::quiet_nan<T>);
    };
    x = normal(s.H, s.P);
    b = normal(s.G, s.S);
    c = normal(s.G, s.S);
    dy = normal(s.H, s.P);
    dt = support::normal_tensor<A, 3>({s.B, s.H, s.N}, random);
    for (A& step : dt) step = static_cast<A>(std::log1p(std::exp(static_cast<double>(step))));
    a = tensor<A, 1>({s.H});
    for (index_t h = 0; h < s.H; ++h)
      a(h) = static_cast<A>(-fastest * static_cast<double>(h) / static_cast<double>(s.H > 1 ? s.H - 1 : 1));
    d_skip = support::normal_tensor<A, 1>({s.H}, random);
    initial_state = support::normal_tensor<A, 4>({states, s.H, s.S, s.P}, random);
    dfinal_state = support::normal_tensor<A, 4>({states, s.H, s.S, s.P}, random);
    y = nan(s.H, s.P);
    dx = nan(s.H, s.P);
    db = nan(s.G, s.S);
    dc = nan(s.G, s.S);
    ddt = tensor<A, 3>::full({s.B, s.H, s.N}, support::quiet_nan<A>);
    da = tensor<A, 2>::full({states, s.H}, support::quiet_nan<A>);
    dd_skip = da;
    final_state = tensor<A, 4>::full({states, s.H, s.S, s.P}, support::quiet_nan<A>);
    dinitial_state = final_state;
  }

  support::random_engine random;
  ssd_shape shape;
  tensor<T, 4> x, b, c, y, dy, dx, db, dc;
  tensor<A, 3> dt, ddt;
  tensor<A, 1> a, d_skip;
  tensor<A, 2> da, dd_skip;
  tensor<A, 4> initial_state, final_state, dfinal_state, dinitial_state;
};

struct ssd_expected {
  tensor<double, 4> y, final_state, dx, db, dc, dinitial_state;
  tensor<double, 4> db_of_heads, dc_of_heads;
  tensor<double, 3> ddt;
  tensor<double, 2> da, dd_skip;
};

/// h_t = exp(dt a) h_{t-1} + dt b_t x_t^T,  y_t = scale h_t^T c_t + d_skip x_t, as a recurrence of every head.
template <class T>
ssd_expected definition(const ssd_problem<T>& p, const recurrence_backward_options<T>& options) {
  const auto [B, H, G, N, S, P] = p.shape;
  reference::recurrence r;
  r.q = reference::for_every_query_head(reference::in_double(p.c), H);
  r.k = reference::for_every_query_head(reference::in_double(p.b), H);
  r.v = reference::in_double(p.x);
  r.key_gate = reference::zeros_like(r.k);
  const auto each = [&](const auto& f) {
    for (index_t b = 0; b < B; ++b)
      for (index_t h = 0; h < H; ++h)
        for (index_t t = 0; t < N; ++t) f(b, h, t, static_cast<double>(p.dt(b, h, t)), static_cast<double>(p.a(h)));
  };
  each([&](index_t b, index_t h, index_t t, double step, double rate) {
    for (index_t s = 0; s < S; ++s) r.key_gate(b, h, t, s) = step * rate;
    for (index_t i = 0; i < P; ++i) r.v(b, h, t, i) *= step;
  });
  r.scale = options.scale.or_default(1);
  r.initial_state = reference::in_double(options.initial_state);
  r.cu_seqlens = offsets_of(options.cu_seqlens);
  r.reverse = options.reverse;
  const auto forward = reference::scan(r);
  const auto dy = reference::in_double(p.dy);
  const auto back = reference::scan_backward(r, dy, reference::in_double(options.dfinal_state));

  ssd_expected e{forward.out,
                 forward.final_state,
                 back.dv,
                 reference::sum_of_query_heads(back.dk, G),
                 reference::sum_of_query_heads(back.dq, G),
                 back.dinitial_state,
                 back.dk,
                 back.dq,
                 tensor<double, 3>({B, H, N}),
                 tensor<double, 2>({p.da.extent(0), H}),
                 tensor<double, 2>({p.da.extent(0), H})};
  each([&](index_t b, index_t h, index_t t, double step, double rate) {
    index_t sequence = b;
    if (!r.cu_seqlens.empty())
      for (sequence = 0; r.cu_seqlens[static_cast<std::size_t>(sequence) + 1] <= t;) ++sequence;
    double gate = 0;
    for (index_t s = 0; s < S; ++s) gate += back.dkey_gate(b, h, t, s);
    e.ddt(b, h, t) = rate * gate;
    e.da(sequence, h) += step * gate;
    const auto skip = static_cast<double>(p.d_skip(h));
    for (index_t i = 0; i < P; ++i) {
      const auto x = static_cast<double>(p.x(b, h, t, i));
      e.ddt(b, h, t) += x * back.dv(b, h, t, i);
      e.dd_skip(sequence, h) += x * dy(b, h, t, i);
      e.y(b, h, t, i) += skip * x;
      e.dx(b, h, t, i) = step * back.dv(b, h, t, i) + skip * dy(b, h, t, i);
    }
  });
  return e;
}

/// Of sums over heads, which are rounded once a head: in units of the largest gradient of a head as well.
template <class T>
double error_of_sum(const tensor<T, 4>& got, const tensor<double, 4>& sums, const tensor<double, 4>& of_heads) {
  const auto size = [](const tensor<double, 4>& t) {
    double largest = 1;
    for (const double x : t) largest = std::max(largest, 1 + std::fabs(x));
    return largest;
  };
  return error<T>(got, sums, gradient_tolerance<T>) * size(sums) / std::max(size(sums), size(of_heads));
}

/// Both passes.
template <class Arch, class T>
void solve_on(ssd_problem<T>& p, recurrence_backward_options<T> options = {}) {
  recurrence_options<T> forward;
  forward.scale = options.scale;
  forward.chunk = options.chunk;
  forward.initial_state = options.initial_state;
  forward.final_state = p.final_state;
  forward.cu_seqlens = options.cu_seqlens;
  forward.reverse = options.reverse;
  forward.executor = options.executor;
  heed::detail::ssd_forward_on<Arch, T>({p.x, p.dt, p.a, p.b, p.c, p.d_skip}, p.y, forward);
  options.dinitial_state = p.dinitial_state;
  heed::detail::ssd_backward_on<Arch, T>({p.x, p.dt, p.a, p.b, p.c, p.d_skip}, p.dy,
                                         {p.dx, p.ddt, p.da, p.db, p.dc, p.dd_skip}, options);
}

/// The worst error of both passes.
template <class Arch, class T>
double error_on(ssd_problem<T>& p, const recurrence_backward_options<T>& options = {}) {
  using A = typename ssd_problem<T>::A;
  solve_on<Arch, T>(p, options);
  const ssd_expected e = definition(p, options);
  double worst = worse(error<T>(p.y, e.y), error<A>(p.final_state, e.final_state));
  worst = worse(worst, error<T>(p.dx, e.dx, gradient_tolerance<T>));
  worst = worse(worst, error_of_sum(p.db, e.db, e.db_of_heads));
  worst = worse(worst, error_of_sum(p.dc, e.dc, e.dc_of_heads));
  worst = worse(worst, error<A>(p.dinitial_state, e.dinitial_state, gradient_tolerance<A>));
  worst = worse(worst, error<A>(p.ddt, e.ddt, gate_gradient_tolerance<A>));
  worst = worse(worst, error<A>(p.da, e.da, gate_gradient_tolerance<A>));
  return worse(worst, error<A>(p.dd_skip, e.dd_skip, gradient_tolerance<A>));
}
template <class T>
double error_of(ssd_problem<T>& p, const recurrence_backward_options<T>& options = {}) {
  return error_on<heed::default_arch, T>(p, options);
}

template <class T>
bool same_bits_of_all(const ssd_problem<T>& a, const ssd_problem<T>& b) {
  using A = typename ssd_problem<T>::A;
  return same_bits<T, 4>(a.y, b.y) && same_bits<A, 4>(a.final_state, b.final_state) && same_bits<T, 4>(a.dx, b.dx) &&
         same_bits<T, 4>(a.db, b.db) && same_bits<T, 4>(a.dc, b.dc) && same_bits<A, 3>(a.ddt, b.ddt) &&
         same_bits<A, 2>(a.da, b.da) && same_bits<A, 2>(a.dd_skip, b.dd_skip) &&
         same_bits<A, 4>(a.dinitial_state, b.dinitial_state);
}

}  // namespace linear_test
