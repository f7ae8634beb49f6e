/// Gradients of softmax attention from its definition, in double, one row of weights at a time.
#pragma once

#include <heed/core/float16.hpp>
#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <array>
#include <cmath>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "reference/softmax.hpp"

namespace reference {

/// Gradients of sum(dout * out) + sum(dlse * lse), and how large rounding errors may be, in units of the accumulator's
/// roundoff u. For a kernel that is given out and lse, with c_ij = dP_ij - delta_i + dlse_i, dZ = P c, and a the
/// lse_noise of the forward pass without |lse| + sqrt(M):
///     W_ij = P_ij (a |c_ij| + 2 sqrt(E) |dout_i| (|v_j| + |out_i|) + 2 |dlse_i|) + 8 |dZ_ij|      bounds dZ
///     dq: scale sum_j W_ij |k_j|      dk: scale sum_i W_ij |q_i|      dv: sum_i (a + sqrt(N r)) P_ij |dout_i|
/// A slope of the score mod or softcap multiplies W, and is itself as uncertain as curvature and gain say. Where out is
/// stored with u_out > u, P_ij u_out / u sum_e |dout_ie out_ie| joins W_ij.
struct softmax_gradients {
  heed::tensor<double, 4> dq, dq_noise;        // [B,H,N,D]
  heed::tensor<double, 4> dk, dk_noise;        // [B,G,M,D]
  heed::tensor<double, 4> dv, dv_noise;        // [B,G,M,E]
  heed::tensor<double, 4> dbias, dbias_noise;  // bias_extents; empty without a bias
  heed::tensor<double, 1> dsink, dsink_noise;  // [H]; empty without a sink
  std::vector<double> dscore, dscore_noise;    // by parameter of the score mods
};

namespace detail {

template <class S>
heed::tensor<double, 4> zeros(const heed::view<const S, 4>& like) {
  return heed::tensor<double, 4>({like.extent(0), like.extent(1), like.extent(2), like.extent(3)});
}

/// u_out / u
template <class S>
inline constexpr double rounding_of_storage = std::is_same_v<S, heed::bfloat16>  ? 0x1p16
                                              : std::is_same_v<S, heed::float16> ? 0x1p13
                                                                                 : 1;

template <class S>
void softmax_backward_row(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k,
                          const heed::view<const S, 4>& v, const heed::view<const S, 4>& dout,
                          const heed::view<const heed::accumulator_t<S>, 3>& dlse, const softmax_arguments& a,
                          double factor, const row_of_keys& row, index_t i, softmax_gradients& result) {
  const index_t D = q.extent(3), E = v.extent(3), r = q.extent(1) / k.extent(1), g = row.h / r;
  const index_t at = row.first_query + i;
  const double scale = scale_of(a, D);
  const row_of_weights w = weigh(q, k, a, row, i);
  if (w.lse == nothing) return;

  // out = sum_j P_j v_j, so dP_j = <dout, v_j>. By the softmax dZ_j = P_j (dP_j - sum_l P_l dP_l), by lse P_j dlse. The
  // sink is one more logit, whose value is 0.
  std::vector<double> upstream, out(static_cast<std::size_t>(E)), P, dP, v_size;
  for (index_t e = 0; e < E; ++e) upstream.push_back(factor * static_cast<double>(dout(row.batch, row.h, at, e)));
  const double by_lse = dlse ? static_cast<double>(dlse(row.batch, row.h, at)) : 0;
  double mean = 0;
  for (index_t j = 0; j < row.keys; ++j) {
    const auto n = static_cast<std::size_t>(j);
    P.push_back(w.weight[n] / w.total);
    dP.push_back(0);
    v_size.push_back(0);
    if (w.logits[n].z == nothing) continue;
    for (index_t e = 0; e < E; ++e) {
      const auto x = static_cast<double>(v(row.batch, g, row.first_key + j, e));
      dP[n] += upstream[static_cast<std::size_t>(e)] * x;
      out[static_cast<std::size_t>(e)] += P[n] * x;
      v_size[n] += x * x;
    }
    v_size[n] = std::sqrt(v_size[n]);
    mean += P[n] * dP[n];
  }

  double out_size = 0, upstream_size = 0, stored = 0;
  for (std::size_t e = 0; e < out.size(); ++e) {
    out_size += out[e] * out[e];
    upstream_size += upstream[e] * upstream[e];
    stored += rounding_of_storage<S> * std::fabs(upstream[e] * out[e]);
  }
  out_size = std::sqrt(out_size);
  upstream_size = std::sqrt(upstream_size);
  const auto noise_of = [&](double weight, double centred, double value_size) {
    return weight * ((w.noise + 8) * std::fabs(centred) + stored + 2 * std::fabs(by_lse) +
                     2 * std::sqrt(static_cast<double>(E)) * upstream_size * (value_size + out_size));
  };

  for (index_t j = 0; j < row.keys; ++j) {
    const auto n = static_cast<std::size_t>(j);
    const logit& s = w.logits[n];
    if (s.z == nothing) continue;
    const auto [p, t] = position_of(a, row, i, j);
    const int query = static_cast<int>(p), key = static_cast<int>(t);
    const double centred = dP[n] - mean + by_lse, dZ = P[n] * centred, dZ_noise = noise_of(P[n], centred, v_size[n]);
    const double s_noise = std::sqrt(static_cast<double>(D)) * s.size + std::fabs(s.biased) + std::fabs(s.added);

    double slope = 1, slope_noise = 0;
    if (a.score) {
      slope = a.score_slope(s.biased, row.b, row.h, query, key);
      slope_noise = a.curvature * s_noise + 4 * a.gain;
      for (int m = 0; m < a.score_parameters; ++m) {
        const double partial = a.score_partial(m, s.biased, row.b, row.h, query, key);
        result.dscore[static_cast<std::size_t>(m)] += dZ * partial;
        result.dscore_noise[static_cast<std::size_t>(m)] +=
            dZ_noise * std::fabs(partial) + std::fabs(dZ) * (4 * std::fabs(partial) + a.curvature * s_noise);
      }
    }
    if (a.bias) {
      const index_t where[4] = {row.b, row.h, i, j};
      index_t own[4];
      for (int axis = 0; axis < 4; ++axis) own[axis] = result.dbias.extent(axis) == 1 ? 0 : where[axis];
      result.dbias(own[0], own[1], own[2], own[3]) += dZ * slope;
      result.dbias_noise(own[0], own[1], own[2], own[3]) += dZ_noise * std::fabs(slope) + std::fabs(dZ) * slope_noise;
    }
    if (a.softcap > 0) {
      // tanh' = 1 - tanh^2, and |tanh''| < 0.77
      const double bent = std::tanh(s.scaled / a.softcap), cap_slope = 1 - bent * bent;
      slope_noise = slope_noise * cap_slope +
                    std::fabs(slope) * (0.77 / a.softcap * std::sqrt(static_cast<double>(D)) * s.size + 4);
      slope *= cap_slope;
    }
    const double dS = dZ * slope, dS_noise = dZ_noise * std::fabs(slope) + std::fabs(dZ) * slope_noise;
    for (index_t d = 0; d < D; ++d) {
      const auto x = static_cast<double>(q(row.batch, row.h, at, d));
      const auto y = static_cast<double>(k(row.batch, g, row.first_key + j, d));
      result.dq(row.batch, row.h, at, d) += scale * dS * y;
      result.dk(row.batch, g, row.first_key + j, d) += scale * dS * x;
      result.dq_noise(row.batch, row.h, at, d) += std::fabs(scale * y) * dS_noise;
      result.dk_noise(row.batch, g, row.first_key + j, d) += std::fabs(scale * x) * dS_noise;
    }
    for (index_t e = 0; e < E; ++e) {
      const double x = P[n] * upstream[static_cast<std::size_t>(e)];
      result.dv(row.batch, g, row.first_key + j, e) += x;
      result.dv_noise(row.batch, g, row.first_key + j, e) +=
          (w.noise + std::sqrt(static_cast<double>(row.queries * r))) * std::fabs(x);
    }
  }
  if (a.sink) {
    const double weight = w.sink / w.total;
    result.dsink(row.h) += weight * (by_lse - mean);
    result.dsink_noise(row.h) += noise_of(weight, by_lse - mean, 0);
  }
}

}  // namespace detail

/// The inputs of softmax, with dout [B,H,N,E] and dlse [B,H,N], or {} for none. `factor` multiplies dout. Rows that see
/// nothing have no gradient, whatever their dout and dlse are; excluded keys are not read.
/// Throws std::logic_error: score mods whose derivatives are not given.
template <class S>
softmax_gradients softmax_backward(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k,
                                   const heed::view<const S, 4>& v, const heed::view<const S, 4>& dout,
                                   const heed::view<const heed::accumulator_t<S>, 3>& dlse,
                                   const softmax_arguments& arguments = {}, double factor = 1) {
  if (arguments.score && (!arguments.score_slope || (arguments.score_parameters > 0 && !arguments.score_partial)))
    throw std::logic_error("reference::softmax_backward: a score mod without its derivatives");
  softmax_gradients result;
  result.dq = detail::zeros(q);
  result.dk = detail::zeros(k);
  result.dv = detail::zeros(v);
  if (arguments.bias) {
    const auto extents =
        arguments.bias_extents.value_or(std::array<index_t, 4>{q.extent(0), q.extent(1), q.extent(2), k.extent(2)});
    result.dbias = heed::tensor<double, 4>({extents[0], extents[1], extents[2], extents[3]});
  }
  if (arguments.sink) result.dsink = heed::tensor<double, 1>({q.extent(1)});
  result.dscore.assign(static_cast<std::size_t>(arguments.score_parameters), 0);
  result.dq_noise = result.dq;
  result.dk_noise = result.dk;
  result.dv_noise = result.dv;
  result.dbias_noise = result.dbias;
  result.dsink_noise = result.dsink;
  result.dscore_noise = result.dscore;
  detail::for_each_head(q, k, arguments, [&](const detail::row_of_keys& row) {
    for (index_t i = 0; i < row.queries; ++i)
      detail::softmax_backward_row(q, k, v, dout, dlse, arguments, factor, row, i, result);
  });
  return result;
}

}  // namespace reference
