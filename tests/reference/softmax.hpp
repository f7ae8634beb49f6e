/// Softmax attention from its definition, in double, one row of weights at a time.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <array>
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
  /// Derivatives of `score`, written by hand: by s, and by its parameter n. append_score sets all that concerns scores.
  std::function<double(double s, int b, int h, int p, int t)> score_slope;
  std::function<double(int n, double s, int b, int h, int p, int t)> score_partial;
  int score_parameters = 0;
  std::function<bool(int b, int h, int p, int t)> visible;
  std::function<double(int h)> sink;
  index_t window_left = -1, window_right = -1;
  std::optional<index_t> q_offset;  // M - N
  index_t kv_offset = 0;
  std::vector<index_t> cu_q, cu_k;
  /// Largest derivative of `score`: how much it magnifies the rounding of s.
  double gain = 1;
  /// Largest second derivative of `score`, by s and by s or a parameter: how much the rounding of s moves the others.
  double curvature = 0;
  /// Extents of the bias, and so of its gradient: 1 along an axis where one number serves all. [B,H,N,M]
  std::optional<std::array<index_t, 4>> bias_extents;
};

/// A score mod and its derivatives.
struct score_function {
  std::function<double(double s, int b, int h, int p, int t)> value{}, slope{};
  std::function<double(int n, double s, int b, int h, int p, int t)> partial{};
  int parameters = 0;
  double gain = 1, curvature = 0;
};

/// Applies f to what the score mods so far make of a score; its parameters are numbered after theirs.
inline void append_score(softmax_arguments& a, const score_function& f) {
  if (!a.score) {
    a.score = f.value;
    a.score_slope = f.slope;
    a.score_partial = f.partial;
  } else {
    const auto value = a.score, slope = a.score_slope;
    const auto partial = a.score_partial;
    const int before = a.score_parameters;
    a.score = [=](double s, int b, int h, int p, int t) { return f.value(value(s, b, h, p, t), b, h, p, t); };
    a.score_slope = [=](double s, int b, int h, int p, int t) {
      return f.slope(value(s, b, h, p, t), b, h, p, t) * slope(s, b, h, p, t);
    };
    a.score_partial = [=](int n, double s, int b, int h, int p, int t) {
      const double z = value(s, b, h, p, t);
      return n < before ? f.slope(z, b, h, p, t) * partial(n, s, b, h, p, t) : f.partial(n - before, z, b, h, p, t);
    };
  }
  a.score_parameters += f.parameters;
  a.curvature = f.curvature * std::max(a.gain, a.gain * a.gain) + f.gain * a.curvature;
  a.gain *= f.gain;
}

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

inline constexpr double nothing = -std::numeric_limits<double>::infinity();

/// One head of one sequence.
struct row_of_keys {
  int b, h;
  index_t batch, first_query, queries, first_key, keys;
};

/// f(row) for each head of each sequence.
template <class S, class F>
void for_each_head(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k, const softmax_arguments& a,
                   const F& f) {
  const bool packed = !a.cu_q.empty();
  const index_t sequences = packed ? static_cast<index_t>(a.cu_q.size()) - 1 : q.extent(0);
  for (index_t s = 0; s < sequences; ++s)
    for (index_t h = 0; h < q.extent(1); ++h) {
      row_of_keys row{static_cast<int>(s), static_cast<int>(h), s, 0, q.extent(2), 0, k.extent(2)};
      if (packed) {
        const auto n = static_cast<std::size_t>(s);
        row.batch = 0;
        row.first_query = a.cu_q[n];
        row.queries = a.cu_q[n + 1] - a.cu_q[n];
        row.first_key = a.cu_k[n];
        row.keys = a.cu_k[n + 1] - a.cu_k[n];
      }
      f(row);
    }
}

inline double scale_of(const softmax_arguments& a, index_t D) {
  return a.scale.value_or(1 / std::sqrt(static_cast<double>(D)));
}

/// Positions of query i and key j of a sequence.
struct pair_position {
  index_t p, t;
};
inline pair_position position_of(const softmax_arguments& a, const row_of_keys& row, index_t i, index_t j) {
  return {i + a.q_offset.value_or(row.keys - row.queries), j + a.kv_offset};
}

/// A pair's score on its way. z = -inf: the pair is excluded and its key was not read, or does not matter.
struct logit {
  double z = nothing;
  double scaled = 0;  // scale * q.k
  double biased = 0;  // after softcap and bias
  double size = 0;    // |scale| sum_d |q k|
  double added = 0;   // the bias
};

template <class S>
logit logit_of(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k, const softmax_arguments& a,
               const row_of_keys& row, index_t i, index_t j) {
  const auto [p, t] = position_of(a, row, i, j);
  if (a.window_left >= 0 && t < p - a.window_left) return {};
  if (a.window_right >= 0 && t > p + a.window_right) return {};
  if (a.visible && !a.visible(row.b, row.h, static_cast<int>(p), static_cast<int>(t))) return {};
  logit s;
  s.added = a.bias ? a.bias(row.b, row.h, i, j) : 0;
  if (s.added == nothing) return {};
  const index_t D = q.extent(3), g = row.h / (q.extent(1) / k.extent(1));
  const double scale = scale_of(a, D);
  double product = 0, size = 0;
  for (index_t d = 0; d < D; ++d) {
    const double x = static_cast<double>(q(row.batch, row.h, row.first_query + i, d)) *
                     static_cast<double>(k(row.batch, g, row.first_key + j, d));
    product += x;
    size += std::fabs(x);
  }
  s.size = std::fabs(scale) * size;
  s.scaled = scale * product;
  s.biased = (a.softcap > 0 ? a.softcap * std::tanh(s.scaled / a.softcap) : s.scaled) + s.added;
  s.z = a.score ? a.score(s.biased, row.b, row.h, static_cast<int>(p), static_cast<int>(t)) : s.biased;
  return s;
}

/// The weights of query i over its keys: P_j = weight[j] / total.
struct row_of_weights {
  std::vector<logit> logits;
  std::vector<double> weight;
  double sink = 0;  // its weight
  double total = 0;
  double lse = nothing;
  double noise = 0;  // sqrt(D) A + 8
};

template <class S>
row_of_weights weigh(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k, const softmax_arguments& a,
                     const row_of_keys& row, index_t i) {
  row_of_weights w;
  const bool reshaped = a.softcap > 0 || a.bias || a.score;
  const double sink = a.sink ? a.sink(row.h) : nothing;
  double top = sink, largest_product = 0, largest_logit = sink > nothing ? std::fabs(sink) : 0;
  for (index_t j = 0; j < row.keys; ++j) {
    const logit s = logit_of(q, k, a, row, i, j);
    w.logits.push_back(s);
    w.weight.push_back(0);
    if (s.z == nothing) continue;
    top = std::max(top, s.z);
    largest_product = std::max(largest_product, s.size);
    if (reshaped) largest_logit = std::max(largest_logit, std::fabs(s.z) + std::fabs(s.added));
  }
  if (top == nothing) return w;

  if (sink > nothing) w.total = w.sink = std::exp(sink - top);
  for (std::size_t j = 0; j < w.weight.size(); ++j) {
    if (w.logits[j].z == nothing) continue;
    w.weight[j] = std::exp(w.logits[j].z - top);
    w.total += w.weight[j];
  }
  w.lse = top + std::log(w.total);
  w.noise = std::sqrt(static_cast<double>(q.extent(3))) * largest_product * a.gain + largest_logit + 8;
  return w;
}

template <class S>
void softmax_row(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k, const heed::view<const S, 4>& v,
                 const softmax_arguments& a, const row_of_keys& row, index_t i, softmax_result& result) {
  const index_t E = v.extent(3), g = row.h / (q.extent(1) / k.extent(1)), at = row.first_query + i;
  const row_of_weights w = weigh(q, k, a, row, i);
  result.lse(row.batch, row.h, at) = w.lse;
  if (w.lse == nothing) return;
  result.lse_noise(row.batch, row.h, at) = w.noise + std::fabs(w.lse) + std::sqrt(static_cast<double>(row.keys));
  const double tiles = static_cast<double>((row.keys + 127) / 128);
  for (index_t e = 0; e < E; ++e) {
    double out = 0, size = 0;
    for (index_t j = 0; j < row.keys; ++j) {
      const auto n = static_cast<std::size_t>(j);
      if (w.logits[n].z == nothing) continue;
      const auto x = static_cast<double>(v(row.batch, g, row.first_key + j, e));
      out += w.weight[n] * x;
      size += w.weight[n] * std::fabs(x);
    }
    result.out(row.batch, row.h, at, e) = out / w.total;
    result.out_noise(row.batch, row.h, at, e) = (w.noise + std::sqrt(128 + tiles)) * size / w.total;
  }
}

}  // namespace detail

/// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E]. Excluded keys are not read.
template <class S>
softmax_result softmax(const heed::view<const S, 4>& q, const heed::view<const S, 4>& k,
                       const heed::view<const S, 4>& v, const softmax_arguments& arguments = {}) {
  const index_t B = q.extent(0), H = q.extent(1), N = q.extent(2), E = v.extent(3);
  softmax_result result{heed::tensor<double, 4>({B, H, N, E}), heed::tensor<double, 4>({B, H, N, E}),
                        heed::tensor<double, 3>({B, H, N}), heed::tensor<double, 3>({B, H, N}),
                        arguments.cu_q.empty() ? N : arguments.cu_q.back()};
  detail::for_each_head(q, k, arguments, [&](const detail::row_of_keys& row) {
    for (index_t i = 0; i < row.queries; ++i) detail::softmax_row(q, k, v, arguments, row, i, result);
  });
  return result;
}

}  // namespace reference
