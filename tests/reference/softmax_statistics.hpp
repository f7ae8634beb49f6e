/// Attention weights and what is read off them, from the definition, in double.
#pragma once

#include <heed/core/float16.hpp>
#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <cmath>

#include "reference/softmax.hpp"

namespace reference {

/// P = exp(z - lse) with the lse that the kernel is given, row and key numbers as in the tensors, and how large
/// rounding errors may be, in units of the accumulator roundoff u: with a = sqrt(D) A + 8 of softmax_result
///     weights:  (a + sqrt(D) |lse_i|) P_ij       a product may start from -lse
///     distance: sum_j (a + sqrt(D) |lse_i| + sqrt(T)) P_ij |p - t_j|
///     entropy, of p = P divided by its sum over j:
///               a sum_j p_j |log p_j + H| + (8 + sqrt(T)) (1 + H + |log max p|)
struct softmax_statistics {
  heed::tensor<double, 4> weights, weights_noise;    // [B,H,N,M]
  heed::tensor<double, 4> visible;                   // [B,H,N,M]: 1 or 0
  heed::tensor<double, 3> entropy, entropy_noise;    // [B,H,N]
  heed::tensor<double, 3> distance, distance_noise;  // [B,H,N]
};

namespace detail {

template <class S>
void statistics_row(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k,
                    const heed::view<const heed::accumulator_t<S>, 3>& lse, const softmax_arguments& a,
                    const row_of_keys& row, index_t i, softmax_statistics& result) {
  const row_of_weights w = weigh(q, k, a, row, i);
  if (w.lse == nothing) return;
  const index_t at = row.first_query + i;
  const auto given = static_cast<double>(lse(row.batch, row.h, at));
  const double lse_noise = std::sqrt(static_cast<double>(q.extent(3))) * std::fabs(given);
  const double chunks = std::sqrt(128 + static_cast<double>((row.keys + 127) / 128));
  double seen = 0, most = 0;
  for (index_t j = 0; j < row.keys; ++j) {
    const auto n = static_cast<std::size_t>(j);
    if (w.logits[n].z == nothing) continue;
    const double P = std::exp(w.logits[n].z - given), noise = w.noise + lse_noise;
    const auto [p, t] = position_of(a, row, i, j);
    result.weights(row.batch, row.h, at, row.first_key + j) = P;
    result.weights_noise(row.batch, row.h, at, row.first_key + j) = noise * P;
    result.visible(row.batch, row.h, at, row.first_key + j) = 1;
    result.distance(row.batch, row.h, at) += P * static_cast<double>(p - t);
    result.distance_noise(row.batch, row.h, at) += (noise + chunks) * P * std::fabs(static_cast<double>(p - t));
    seen += w.weight[n];
    most = std::max(most, w.weight[n]);
  }
  if (seen == 0) return;
  const auto each = [&](const auto& f) {
    for (const double weight : w.weight)
      if (weight > 0) f(weight / seen);
  };
  double entropy = 0, spread = 0;
  each([&](double p) { entropy -= p * std::log(p); });
  each([&](double p) { spread += p * std::fabs(std::log(p) + entropy); });
  result.entropy(row.batch, row.h, at) = entropy;
  result.entropy_noise(row.batch, row.h, at) =
      w.noise * spread + (8 + chunks) * (1 + entropy + std::fabs(std::log(most / seen)));
}

}  // namespace detail

/// q [B,H,N,D], k [B,G,M,D], lse [B,H,N]. Excluded keys are not read.
template <class S>
softmax_statistics statistics(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k,
                              const heed::view<const heed::accumulator_t<S>, 3>& lse,
                              const softmax_arguments& arguments = {}) {
  const index_t B = q.extent(0), H = q.extent(1), N = q.extent(2), M = k.extent(2);
  const auto pairs = [&] { return heed::tensor<double, 4>({B, H, N, M}); };
  const auto rows = [&] { return heed::tensor<double, 3>({B, H, N}); };
  softmax_statistics result{pairs(), pairs(), pairs(), rows(), rows(), rows(), rows()};
  detail::for_each_head(q, k, arguments, [&](const detail::row_of_keys& row) {
    for (index_t i = 0; i < row.queries; ++i) detail::statistics_row(q, k, lse, arguments, row, i, result);
  });
  return result;
}

}  // namespace reference
