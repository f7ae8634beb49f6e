/// Luong's attention and the maps in front of it from their definitions, in double.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace reference {

using heed::index_t;

/// Scores of q [B,N,A] and k [B,S,A]: their products, or with v_a [A] those of mlp. Values h_s [B,S,E].
struct luong_attention {
  heed::tensor<double, 3> q, k, h_s;
  std::optional<heed::tensor<double, 1>> v_a{};
  std::vector<index_t> lengths{};  // [B]
  std::optional<index_t> reach{};  // around the own step, or around the floor of positions
  index_t first_step = 0;
  std::optional<heed::tensor<double, 2>> positions{};  // [B,N]
  double sigma = 0;                                    // of the Gaussian around them
};

struct luong_result {
  heed::tensor<double, 3> out;  // [B,N,E]
  heed::tensor<double, 2> lse;  // [B,N]
};

struct luong_gradients {
  heed::tensor<double, 3> dq, dk, dh_s;
  heed::tensor<double, 1> dv_a;
  heed::tensor<double, 2> dpositions;
};

namespace detail {

inline bool sees(const luong_attention& a, index_t b, index_t t, index_t s) {
  const index_t last = a.lengths[static_cast<std::size_t>(b)] - 1;
  if (s > last) return false;
  if (!a.reach) return true;
  index_t centre = t + a.first_step;
  if (a.positions) centre = std::max<index_t>(0, static_cast<index_t>(std::floor((*a.positions)(b, t))));
  centre = std::min(centre, last);
  return std::abs(s - centre) <= *a.reach;
}

inline double luong_score(const luong_attention& a, index_t b, index_t t, index_t s) {
  double z = 0;
  for (index_t i = 0; i < a.q.extent(2); ++i)
    z += a.v_a ? (*a.v_a)(i)*std::tanh(a.q(b, t, i) + a.k(b, s, i)) : a.q(b, t, i) * a.k(b, s, i);
  return z;
}

inline double gaussian(const luong_attention& a, index_t b, index_t t, index_t s) {
  if (!a.positions) return 1;
  const double distance = static_cast<double>(s) - (*a.positions)(b, t);
  return std::exp(-distance * distance / (2 * a.sigma * a.sigma));
}

/// Softmax over the states that a step sees, and its lse.
inline std::vector<double> luong_weights(const luong_attention& a, index_t b, index_t t, double& lse) {
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  std::vector<double> z;
  double top = nothing, total = 0;
  for (index_t s = 0; s < a.k.extent(1); ++s) {
    z.push_back(sees(a, b, t, s) ? luong_score(a, b, t, s) : nothing);
    top = std::max(top, z.back());
  }
  lse = nothing;
  if (top == nothing) return std::vector<double>(z.size(), 0.0);
  for (double& x : z) total += x = x == nothing ? 0 : std::exp(x - top);
  for (double& x : z) x /= total;
  lse = top + std::log(total);
  return z;
}

}  // namespace detail

inline luong_result luong(const luong_attention& a) {
  const index_t B = a.q.extent(0), N = a.q.extent(1), E = a.h_s.extent(2);
  luong_result r{heed::tensor<double, 3>({B, N, E}), heed::tensor<double, 2>({B, N})};
  for (index_t b = 0; b < B; ++b)
    for (index_t t = 0; t < N; ++t) {
      const std::vector<double> weight = detail::luong_weights(a, b, t, r.lse(b, t));
      for (index_t s = 0; s < a.k.extent(1); ++s) {
        const double w = weight[static_cast<std::size_t>(s)];
        for (index_t e = 0; w != 0 && e < E; ++e) r.out(b, t, e) += w * detail::gaussian(a, b, t, s) * a.h_s(b, s, e);
      }
    }
  return r;
}

inline luong_gradients luong_backward(const luong_attention& a, const heed::tensor<double, 3>& dout) {
  const index_t B = a.q.extent(0), N = a.q.extent(1), A = a.q.extent(2), S = a.k.extent(1), E = a.h_s.extent(2);
  luong_gradients r{heed::tensor<double, 3>({B, N, A}), heed::tensor<double, 3>({B, S, A}),
                    heed::tensor<double, 3>({B, S, E}), heed::tensor<double, 1>({A}), heed::tensor<double, 2>({B, N})};
  for (index_t b = 0; b < B; ++b)
    for (index_t t = 0; t < N; ++t) {
      double lse, mean = 0;
      const std::vector<double> weight = detail::luong_weights(a, b, t, lse);
      std::vector<double> by_weight(weight.size(), 0.0);
      for (index_t s = 0; s < S; ++s) {
        const auto n = static_cast<std::size_t>(s);
        if (weight[n] == 0) continue;
        const double g = detail::gaussian(a, b, t, s);
        for (index_t e = 0; e < E; ++e) {
          by_weight[n] += g * dout(b, t, e) * a.h_s(b, s, e);
          r.dh_s(b, s, e) += weight[n] * g * dout(b, t, e);
        }
        mean += weight[n] * by_weight[n];
        if (a.positions)
          r.dpositions(b, t) +=
              weight[n] * by_weight[n] * (static_cast<double>(s) - (*a.positions)(b, t)) / (a.sigma * a.sigma);
      }
      for (index_t s = 0; s < S; ++s) {
        const auto n = static_cast<std::size_t>(s);
        if (weight[n] == 0) continue;
        const double dz = weight[n] * (by_weight[n] - mean);
        for (index_t i = 0; i < A; ++i) {
          const double x = a.q(b, t, i), y = a.k(b, s, i), u = std::tanh(x + y);
          r.dq(b, t, i) += dz * (a.v_a ? (*a.v_a)(i) * (1 - u * u) : y);
          r.dk(b, s, i) += dz * (a.v_a ? (*a.v_a)(i) * (1 - u * u) : x);
          if (a.v_a) r.dv_a(i) += dz * u;
        }
      }
    }
  return r;
}

/// y = x W + bias, x [B,N,I], W [I,O]
inline heed::tensor<double, 3> luong_projection(const heed::tensor<double, 3>& x, const heed::tensor<double, 2>& w,
                                                const heed::tensor<double, 1>& bias) {
  heed::tensor<double, 3> y({x.extent(0), x.extent(1), w.extent(1)});
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t t = 0; t < x.extent(1); ++t)
      for (index_t o = 0; o < w.extent(1); ++o) {
        y(b, t, o) = bias(o);
        for (index_t i = 0; i < w.extent(0); ++i) y(b, t, o) += x(b, t, i) * w(i, o);
      }
  return y;
}

struct luong_projection_gradients {
  heed::tensor<double, 3> dx;
  heed::tensor<double, 2> dw;
  heed::tensor<double, 1> dvector;
};

inline luong_projection_gradients luong_projection_backward(const heed::tensor<double, 3>& x,
                                                            const heed::tensor<double, 2>& w,
                                                            const heed::tensor<double, 3>& dy) {
  luong_projection_gradients r{heed::tensor<double, 3>({x.extent(0), x.extent(1), x.extent(2)}),
                               heed::tensor<double, 2>({w.extent(0), w.extent(1)}),
                               heed::tensor<double, 1>({w.extent(1)})};
  for (index_t b = 0; b < x.extent(0); ++b)
    for (index_t t = 0; t < x.extent(1); ++t)
      for (index_t o = 0; o < w.extent(1); ++o) {
        r.dvector(o) += dy(b, t, o);
        for (index_t i = 0; i < w.extent(0); ++i) {
          r.dx(b, t, i) += dy(b, t, o) * w(i, o);
          r.dw(i, o) += dy(b, t, o) * x(b, t, i);
        }
      }
  return r;
}

/// p = S_b sigmoid(v . tanh(h W))
struct luong_prediction {
  heed::tensor<double, 3> h;
  heed::tensor<double, 2> w;
  heed::tensor<double, 1> v;
  std::vector<index_t> lengths{};  // [B]
};

inline heed::tensor<double, 2> luong_positions(const luong_prediction& a) {
  const heed::tensor<double, 3> y = luong_projection(a.h, a.w, heed::tensor<double, 1>({a.w.extent(1)}));
  heed::tensor<double, 2> p({a.h.extent(0), a.h.extent(1)});
  for (index_t b = 0; b < p.extent(0); ++b)
    for (index_t t = 0; t < p.extent(1); ++t) {
      double x = 0;
      for (index_t o = 0; o < a.w.extent(1); ++o) x += a.v(o) * std::tanh(y(b, t, o));
      p(b, t) = static_cast<double>(a.lengths[static_cast<std::size_t>(b)]) / (1 + std::exp(-x));
    }
  return p;
}

inline luong_projection_gradients luong_positions_backward(const luong_prediction& a,
                                                           const heed::tensor<double, 2>& dp) {
  const heed::tensor<double, 3> y = luong_projection(a.h, a.w, heed::tensor<double, 1>({a.w.extent(1)}));
  const heed::tensor<double, 2> p = luong_positions(a);
  heed::tensor<double, 3> dy({y.extent(0), y.extent(1), y.extent(2)});
  heed::tensor<double, 1> dv({a.w.extent(1)});
  for (index_t b = 0; b < p.extent(0); ++b)
    for (index_t t = 0; t < p.extent(1); ++t) {
      const auto S = static_cast<double>(a.lengths[static_cast<std::size_t>(b)]);
      const double slope = S > 0 ? dp(b, t) * p(b, t) * (1 - p(b, t) / S) : 0;
      for (index_t o = 0; o < a.w.extent(1); ++o) {
        const double u = std::tanh(y(b, t, o));
        dy(b, t, o) = slope * a.v(o) * (1 - u * u);
        dv(o) += slope * u;
      }
    }
  luong_projection_gradients r = luong_projection_backward(a.h, a.w, dy);
  r.dvector = dv;
  return r;
}

}  // namespace reference
