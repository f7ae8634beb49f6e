/// The statistics of softmax attention after softmax_forward, and what their error is in units of what is allowed.
#pragma once

#include "ops/softmax/problem.hpp"
#include "reference/softmax_statistics.hpp"

#include <heed/ops/softmax/column_statistics.hpp>
#include <heed/ops/softmax/row_statistics.hpp>
#include <heed/ops/softmax/top_keys.hpp>
#include <heed/ops/softmax/weights.hpp>

#include <cstdint>
#include <vector>

namespace softmax_test {

using heed::softmax_column_request;
using heed::softmax_row_request;
using heed::softmax_statistics_options;

/// A problem with all that statistics write: numbers NaN, indices -7. Some rows in a list of no order, some of them
/// next to each other; outputs of columns by head and by kv head.
template <class S>
struct statistics_problem : problem<S> {
  using T = typename problem<S>::accumulator;

  explicit statistics_problem(const shape& s, unsigned seed = 1, index_t top = 5);

  template <int Rank>
  static tensor<T, Rank> numbers(const index_t (&extents)[Rank]) {
    return tensor<T, Rank>::full(extents, support::quiet_nan<T>);
  }

  std::vector<std::int32_t> rows;
  tensor<T, 4> weights, top_weights;
  tensor<std::int32_t, 4> top_keys;
  tensor<T, 3> entropy, max, distance, column_sum, head_sum, column_max, group_max, row_weights;
  tensor<std::int32_t, 3> argmax, last_row, head_last;
  double threshold = 0.01;
};

template <class S>
statistics_problem<S>::statistics_problem(const shape& s, unsigned seed, index_t top) : problem<S>(s, seed) {
  for (index_t i = 0; i < s.N; i += 1 + i % 3) rows.push_back(static_cast<std::int32_t>(i));
  std::rotate(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 3), rows.end());
  if (!rows.empty()) rows.push_back(rows.front());
  const auto R = static_cast<index_t>(rows.size());
  weights = numbers<4>({s.B, s.H, rows.empty() ? s.N : R, s.M});
  top_weights = numbers<4>({s.B, s.H, s.N, top});
  top_keys = tensor<std::int32_t, 4>::full({s.B, s.H, s.N, top}, -7);
  entropy = numbers<3>({s.B, s.H, s.N});
  max = numbers<3>({s.B, s.H, s.N});
  distance = numbers<3>({s.B, s.H, s.N});
  argmax = tensor<std::int32_t, 3>::full({s.B, s.H, s.N}, -7);
  column_sum = numbers<3>({s.B, s.G, s.M});
  head_sum = numbers<3>({s.B, s.H, s.M});
  column_max = numbers<3>({s.B, s.H, s.M});
  group_max = numbers<3>({s.B, s.G, s.M});
  last_row = tensor<std::int32_t, 3>::full({s.B, s.G, s.M}, -7);
  head_last = tensor<std::int32_t, 3>::full({s.B, s.H, s.M}, -7);
  row_weights = support::normal_tensor<T, 3>({s.B, s.H, s.N}, this->random);
  // Some rows in between, and some whole tiles, take no part.
  for (index_t b = 0; b < s.B; ++b)
    for (index_t h = 0; h < s.H; ++h)
      for (index_t i = 0; i < s.N; ++i)
        if (i % 7 == 3 || (i >= 32 && i < 140)) row_weights(b, h, i) = 0;
}

/// Options of forward that statistics share, with what forward alone knows.
template <class S>
softmax_options<S> forward_options(const softmax_statistics_options<S>& o,
                                   view<const heed::accumulator_t<S>, 1> sink = {}) {
  softmax_options<S> f;
  f.scale = o.scale;
  f.softcap = o.softcap;
  f.bias = o.bias;
  f.sink = sink;
  f.window_left = o.window_left;
  f.window_right = o.window_right;
  f.q_offset = o.q_offset;
  f.kv_offset = o.kv_offset;
  f.cu_seqlens_q = o.cu_seqlens_q;
  f.cu_seqlens_k = o.cu_seqlens_k;
  return f;
}

/// Every statistic of p, whose lse is known. Columns in two calls: by kv head under row weights, and by head.
template <class A, class S, class... Mods>
void read_on(statistics_problem<S>& p, const softmax_statistics_options<S>& options, const Mods&... mods) {
  using namespace heed::detail;
  softmax_weights_on<A, S>(p.q, p.k, p.lse, p.rows, p.weights, options, mods...);
  softmax_top_keys_on<A, S>(p.q, p.k, p.lse, {}, p.top_weights, p.top_keys, options, mods...);
  softmax_row_statistics_on<A, S>(p.q, p.k, p.lse,
                                  {.entropy = p.entropy, .max = p.max, .argmax = p.argmax, .distance = p.distance},
                                  options, mods...);
  softmax_column_statistics_on<A, S>(p.q, p.k, p.lse,
                                     {.sum = p.column_sum,
                                      .max = p.column_max,
                                      .last_row = p.last_row,
                                      .row_weights = p.row_weights,
                                      .threshold = p.threshold},
                                     options, mods...);
  softmax_column_statistics_on<A, S>(
      p.q, p.k, p.lse, {.sum = p.head_sum, .last_row = p.head_last, .threshold = p.threshold}, options, mods...);
  softmax_column_statistics_on<A, S>(p.q, p.k, p.lse, {.max = p.group_max}, options, mods...);
}

template <class S, class... Mods>
void solve(statistics_problem<S>& p, const softmax_statistics_options<S>& options, const Mods&... mods) {
  softmax_options<S> forward = forward_options(options);
  forward.lse = p.lse;
  heed::softmax_forward(p.q, p.k, p.v, p.out, forward, mods...);
  read_on<heed::default_arch, S>(p, options, mods...);
}

/// Compares what read_on wrote with the definition.
template <class S>
class statistics_judge {
 public:
  using T = heed::accumulator_t<S>;
  static constexpr double u = roundoff<T>, underflow = 4096.0 * std::numeric_limits<T>::min();

  statistics_judge(const statistics_problem<S>& p, const reference::softmax_arguments& a)
      : p_(p),
        expected_(reference::statistics<S>(p.q, p.k, p.lse, a)),
        queries_(a.cu_q.empty() ? p.q.extent(2) : a.cu_q.back()),
        keys_(a.cu_k.empty() ? p.k.extent(2) : a.cu_k.back()) {}

  double worst() {
    const index_t B = p_.q.extent(0), H = p_.q.extent(1), G = p_.k.extent(1);
    for (index_t b = 0; b < B; ++b)
      for (index_t h = 0; h < H; ++h) {
        for (std::size_t r = 0; r < p_.rows.size(); ++r) weights(b, h, static_cast<index_t>(r), p_.rows[r]);
        for (index_t i = 0; i < queries_; ++i) {
          row(b, h, i);
          top(b, h, i);
        }
        for (index_t j = 0; j < keys_; ++j) {
          compare_sum(b, h, h + 1, j, false, p_.head_sum(b, h, j));
          compare_max(b, h, h + 1, j, true, p_.column_max(b, h, j));
          compare_last(b, h, h + 1, j, false, p_.head_last(b, h, j));
        }
      }
    const index_t r = G == 0 ? 0 : H / G;
    for (index_t b = 0; b < B; ++b)
      for (index_t g = 0; g < G; ++g)
        for (index_t j = 0; j < keys_; ++j) {
          compare_sum(b, g * r, (g + 1) * r, j, true, p_.column_sum(b, g, j));
          compare_max(b, g * r, (g + 1) * r, j, false, p_.group_max(b, g, j));
          compare_last(b, g * r, (g + 1) * r, j, true, p_.last_row(b, g, j));
        }
    return worst_;
  }

 private:
  void compare(T got, double expected, double noise) {
    worst_ = worse(worst_, relative_to(static_cast<double>(got), expected, 2 * u * noise + underflow));
  }
  void demand(bool holds) {
    if (!holds) worst_ = std::numeric_limits<double>::infinity();
  }
  double allowed(index_t b, index_t h, index_t i, index_t j) const {
    return 2 * u * expected_.weights_noise(b, h, i, j) + underflow;
  }

  void weights(index_t b, index_t h, index_t r, index_t i) {
    for (index_t j = 0; j < p_.k.extent(2); ++j) {
      compare(p_.weights(b, h, r, j), expected_.weights(b, h, i, j), expected_.weights_noise(b, h, i, j));
      if (expected_.visible(b, h, i, j) == 0) demand(p_.weights(b, h, r, j) == 0);
    }
  }

  void row(index_t b, index_t h, index_t i) {
    double most = 0;
    index_t visible = 0;
    for (index_t j = 0; j < keys_; ++j) {
      most = std::max(most, expected_.weights(b, h, i, j));
      visible += expected_.visible(b, h, i, j) != 0 ? 1 : 0;
    }
    compare(p_.entropy(b, h, i), expected_.entropy(b, h, i), expected_.entropy_noise(b, h, i));
    compare(p_.distance(b, h, i), expected_.distance(b, h, i), expected_.distance_noise(b, h, i));
    const index_t key = p_.argmax(b, h, i);
    if (visible == 0) {
      demand(key == -1 && p_.max(b, h, i) == 0);
      return;
    }
    demand(key >= 0 && key < keys_);
    if (key < 0 || key >= keys_) return;
    demand(expected_.visible(b, h, i, key) != 0);
    compare(p_.max(b, h, i), expected_.weights(b, h, i, key), expected_.weights_noise(b, h, i, key));
    // Where weights are equal but for rounding any of them may be the largest.
    demand(expected_.weights(b, h, i, key) >= most - 2 * allowed(b, h, i, key));
  }

  void top(index_t b, index_t h, index_t i) {
    const index_t K = p_.top_weights.extent(3);
    std::vector<bool> taken(static_cast<std::size_t>(keys_));
    index_t visible = 0;
    double least = 0;
    for (index_t j = 0; j < keys_; ++j) visible += expected_.visible(b, h, i, j) != 0 ? 1 : 0;
    for (index_t n = 0; n < K; ++n) {
      const T weight = p_.top_weights(b, h, i, n);
      const index_t key = p_.top_keys(b, h, i, n);
      if (n >= visible) {
        demand(weight == 0 && key == -1);
        continue;
      }
      demand(key >= 0 && key < keys_);
      if (key < 0 || key >= keys_) return;
      demand(!taken[static_cast<std::size_t>(key)] && expected_.visible(b, h, i, key) != 0);
      taken[static_cast<std::size_t>(key)] = true;
      compare(weight, expected_.weights(b, h, i, key), expected_.weights_noise(b, h, i, key));
      if (n > 0) demand(weight <= p_.top_weights(b, h, i, n - 1));
      least = expected_.weights(b, h, i, key) + 2 * allowed(b, h, i, key);
    }
    for (index_t j = 0; j < keys_ && K > 0 && visible > K; ++j)
      demand(taken[static_cast<std::size_t>(j)] || expected_.weights(b, h, i, j) <= least);
  }

  /// f(row weight, weight, noise, row) for rows of some heads that take part.
  template <class F>
  void for_rows(index_t b, index_t first, index_t last, index_t j, bool weighted, const F& f) const {
    for (index_t h = first; h < last; ++h)
      for (index_t i = 0; i < queries_; ++i) {
        const double w = weighted ? static_cast<double>(p_.row_weights(b, h, i)) : 1;
        if (w != 0) f(w, expected_.weights(b, h, i, j), allowed(b, h, i, j), i);
      }
  }
  void compare_sum(index_t b, index_t first, index_t last, index_t j, bool weighted, T got) {
    double sum = 0, noise = 0;
    const double rows = std::sqrt(static_cast<double>(queries_ * (last - first)));
    for_rows(b, first, last, j, weighted, [&](double w, double P, double error, index_t) {
      sum += w * P;
      noise += std::fabs(w) * (error / (2 * u) + rows * P);
    });
    compare(got, sum, noise);
  }
  void compare_max(index_t b, index_t first, index_t last, index_t j, bool weighted, T got) {
    double low = 0, high = 0;
    for_rows(b, first, last, j, weighted, [&](double, double P, double error, index_t) {
      low = std::max(low, P - error);
      high = std::max(high, P + error);
    });
    demand(static_cast<double>(got) >= low && static_cast<double>(got) <= high);
  }
  void compare_last(index_t b, index_t first, index_t last, index_t j, bool weighted, std::int32_t got) {
    index_t surely = -1;
    bool possible = got == -1;
    for_rows(b, first, last, j, weighted, [&](double, double P, double error, index_t i) {
      if (P - error > p_.threshold) surely = std::max(surely, i);
      possible = possible || (i == got && P + error > p_.threshold);
    });
    demand(possible && got >= surely);
  }

  const statistics_problem<S>& p_;
  reference::softmax_statistics expected_;
  index_t queries_, keys_;
  double worst_ = 0;
};

/// Solves p and returns the worst error against the definition.
template <class A, class S, class... Mods>
double statistics_error_on(statistics_problem<S>& p, const softmax_statistics_options<S>& options,
                           view<const heed::accumulator_t<S>, 1> sink, double gain, const Mods&... mods) {
  softmax_options<S> forward = forward_options(options, sink);
  reference::softmax_arguments arguments = arguments_of<S>(forward);
  arguments.gain = gain;
  (add_mod(arguments, mods), ...);
  forward.lse = p.lse;
  heed::softmax_forward(p.q, p.k, p.v, p.out, forward, mods...);
  read_on<A, S>(p, options, mods...);
  return statistics_judge<S>(p, arguments).worst();
}

template <class S, class... Mods>
double statistics_error(statistics_problem<S>& p, const softmax_statistics_options<S>& options = {}, double gain = 1,
                        const Mods&... mods) {
  return statistics_error_on<heed::default_arch, S>(p, options, {}, gain, mods...);
}

template <class S>
bool same_statistics(const statistics_problem<S>& a, const statistics_problem<S>& b) {
  using T = heed::accumulator_t<S>;
  return same_bits<T, 4>(a.weights, b.weights) && same_bits<T, 4>(a.top_weights, b.top_weights) &&
         same_bits<std::int32_t, 4>(a.top_keys, b.top_keys) && same_bits<T, 3>(a.entropy, b.entropy) &&
         same_bits<T, 3>(a.max, b.max) && same_bits<T, 3>(a.distance, b.distance) &&
         same_bits<std::int32_t, 3>(a.argmax, b.argmax) && same_bits<T, 3>(a.column_sum, b.column_sum) &&
         same_bits<T, 3>(a.head_sum, b.head_sum) && same_bits<T, 3>(a.column_max, b.column_max) &&
         same_bits<T, 3>(a.group_max, b.group_max) && same_bits<std::int32_t, 3>(a.last_row, b.last_row) &&
         same_bits<std::int32_t, 3>(a.head_last, b.head_last);
}

}  // namespace softmax_test

#include "ops/softmax/instances.hpp"

HEED_TEST_INSTANCE_OF(struct softmax_test::statistics_problem<float>);
HEED_TEST_INSTANCE_OF(struct softmax_test::statistics_problem<double>);
HEED_TEST_INSTANCE_OF(struct softmax_test::statistics_problem<heed::bfloat16>);
HEED_TEST_INSTANCE_OF(class softmax_test::statistics_judge<float>);
HEED_TEST_INSTANCE_OF(class softmax_test::statistics_judge<double>);
HEED_TEST_INSTANCE_OF(class softmax_test::statistics_judge<heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_weights_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::softmax_weights_on<heed::default_arch, double>);
HEED_TEST_INSTANCE(heed::detail::softmax_weights_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_weights_on<heed::default_arch, float, heed::causal>);
HEED_TEST_INSTANCE(heed::detail::softmax_weights_on<heed::default_arch, heed::bfloat16, heed::causal>);
HEED_TEST_INSTANCE(heed::detail::softmax_top_keys_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::softmax_top_keys_on<heed::default_arch, double>);
HEED_TEST_INSTANCE(heed::detail::softmax_top_keys_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_top_keys_on<heed::default_arch, float, heed::causal>);
HEED_TEST_INSTANCE(heed::detail::softmax_row_statistics_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::softmax_row_statistics_on<heed::default_arch, double>);
HEED_TEST_INSTANCE(heed::detail::softmax_row_statistics_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_row_statistics_on<heed::default_arch, float, heed::causal>);
HEED_TEST_INSTANCE(heed::detail::softmax_column_statistics_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::softmax_column_statistics_on<heed::default_arch, double>);
HEED_TEST_INSTANCE(heed::detail::softmax_column_statistics_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE(heed::detail::softmax_column_statistics_on<heed::default_arch, float, heed::causal>);
