/// Softmax attention from its definition, in double, one row of weights at a time.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

namespace reference {

using heed::index_t;

/// What a call does to scale q.k. Mods see positions p = i + q_offset and t = j + kv_offset; in a packed batch
/// everything counts from the start of a sequence, whose number is `b`.
struct softmax_arguments {
  std::optional<double> scale;  // D^-1/2
  double softcap = 0;
  std::function<double(int b, int h, index_t i, index_t j)> bias;
  std::function<double(double s, int b, int h, int p, int t)> score;
  std::function<bool(int b, int h, int p, int t)> visible;
  std::function<double(int h)> sink;
  index_t window_left = -1, window_right = -1;
  std::optional<index_t> q_offset;  // M - N
  index_t kv_offset = 0;
  std::vector<index_t> cu_q, cu_k;
  /// Largest derivative of `score`: how much it magnifies the rounding of s.
  double gain = 1;
};

/// The result, and how large rounding errors may be, in units of the accumulator's roundoff u:
///     lse_noise = sqrt(D) A + |lse| + 8 + sqrt(M)            A = max_j |scale| sum_d |q k|
///     out_noise = (sqrt(D) A + 8 + sqrt(T)) sum_j P |v|      T = 128 + number of tiles of 128 keys
/// Softcap, bias, score mods and sink round once more, in proportion to the largest logit, which then counts as part of
/// A.
struct softmax_result {
  heed::tensor<double, 4> out, out_noise;  // [B,H,N,E]
  heed::tensor<double, 3> lse, lse_noise;  // [B,H,N]
  index_t rows;                            // those that some sequence owns
};

namespace detail {

struct row_of_keys {
  int b, h;
  index_t batch, first_query, queries, first_key, keys;
};

template <class S>
void softmax_row(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k, const heed::view<const S, 4>& v,
                 const softmax_arguments& a, const row_of_keys& row, index_t i, softmax_result& result) {
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  const index_t D = q.extent(3), E = v.extent(3), g = row.h / (q.extent(1) / k.extent(1));
  const double scale = a.scale.value_or(1 / std::sqrt(static_cast<double>(D)));
  const index_t p = i + a.q_offset.value_or(row.keys - row.queries);
  const bool reshaped = a.softcap > 0 || a.bias || a.score;

  std::vector<double> z(static_cast<std::size_t>(row.keys), nothing);
  double largest_product = 0, largest_logit = 0;
  for (index_t j = 0; j < row.keys; ++j) {
    const index_t t = j + a.kv_offset;
    if (a.window_left >= 0 && t < p - a.window_left) continue;
    if (a.window_right >= 0 && t > p + a.window_right) continue;
    if (a.visible && !a.visible(row.b, row.h, static_cast<int>(p), static_cast<int>(t))) continue;
    double product = 0, size = 0;
    for (index_t d = 0; d < D; ++d) {
      const double x = static_cast<double>(q(row.batch, row.h, row.first_query + i, d)) *
                       static_cast<double>(k(row.batch, g, row.first_key + j, d));
      product += x;
      size += std::fabs(x);
    }
    double s = scale * product;
    if (a.softcap > 0) s = a.softcap * std::tanh(s / a.softcap);
    const double added = a.bias ? a.bias(row.b, row.h, i, j) : 0;
    s += added;
    if (s == nothing) continue;
    if (a.score) s = a.score(s, row.b, row.h, static_cast<int>(p), static_cast<int>(t));
    if (s == nothing) continue;
    z[static_cast<std::size_t>(j)] = s;
    largest_product = std::max(largest_product, std::fabs(scale) * size);
    if (reshaped) largest_logit = std::max(largest_logit, std::fabs(s) + std::fabs(added));
  }

  double top = nothing, total = 0;
  for (const double s : z) top = std::max(top, s);
  const double sink = a.sink ? a.sink(row.h) : nothing;
  top = std::max(top, sink);
  const index_t at = row.first_query + i;
  if (top == nothing) {
    result.lse(row.batch, row.h, at) = nothing;
    return;
  }
  if (sink > nothing) {
    total = std::exp(sink - top);
    largest_logit = std::max(largest_logit, std::fabs(sink));
  }
  const double noise = std::sqrt(static_cast<double>(D)) * largest_product * a.gain + largest_logit + 8;
  const double tiles = static_cast<double>((row.keys + 127) / 128);
  std::vector<double> out(static_cast<std::size_t>(E)), size(static_cast<std::size_t>(E));
  for (index_t j = 0; j < row.keys; ++j) {
    if (z[static_cast<std::size_t>(j)] == nothing) continue;
    const double weight = std::exp(z[static_cast<std::size_t>(j)] - top);
    total += weight;
    for (index_t e = 0; e < E; ++e) {
      const auto x = static_cast<double>(v(row.batch, g, row.first_key + j, e));
      out[static_cast<std::size_t>(e)] += weight * x;
      size[static_cast<std::size_t>(e)] += weight * std::fabs(x);
    }
  }
  for (index_t e = 0; e < E; ++e) {
    result.out(row.batch, row.h, at, e) = out[static_cast<std::size_t>(e)] / total;
    result.out_noise(row.batch, row.h, at, e) =
        (noise + std::sqrt(128 + tiles)) * size[static_cast<std::size_t>(e)] / total;
  }
  const double lse = top + std::log(total);
  result.lse(row.batch, row.h, at) = lse;
  result.lse_noise(row.batch, row.h, at) = noise + std::fabs(lse) + std::sqrt(static_cast<double>(row.keys));
}

}  // namespace detail

/// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E]. Excluded keys are not read.
template <class S>
softmax_result softmax(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k,
                       const heed::view<const S, 4>& v, const softmax_arguments& arguments = {}) {
  const index_t B = q.extent(0), H = q.extent(1), N = q.extent(2), E = v.extent(3);
  const bool packed = !arguments.cu_q.empty();
  softmax_result result{heed::tensor<double, 4>({B, H, N, E}), heed::tensor<double, 4>({B, H, N, E}),
                        heed::tensor<double, 3>({B, H, N}), heed::tensor<double, 3>({B, H, N}),
                        packed ? arguments.cu_q.back() : N};
  const index_t sequences = packed ? static_cast<index_t>(arguments.cu_q.size()) - 1 : B;
  for (index_t s = 0; s < sequences; ++s)
    for (index_t h = 0; h < H; ++h) {
      detail::row_of_keys row{static_cast<int>(s), static_cast<int>(h), s, 0, N, 0, k.extent(2)};
      if (packed) {
        const auto n = static_cast<std::size_t>(s);
        row.batch = 0;
        row.first_query = arguments.cu_q[n];
        row.queries = arguments.cu_q[n + 1] - arguments.cu_q[n];
        row.first_key = arguments.cu_k[n];
        row.keys = arguments.cu_k[n + 1] - arguments.cu_k[n];
      }
      for (index_t i = 0; i < row.queries; ++i) detail::softmax_row(q, k, v, arguments, row, i, result);
    }
  return result;
}

}  // namespace reference
