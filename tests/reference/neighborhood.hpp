/// Neighborhood attention and its gradients from the definition, in double: softmax attention under a mask of pairs, with
/// the extra keys before those of the grid.
#pragma once

#include <heed/mod/neighborhood.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "reference/softmax_backward.hpp"

namespace reference {

/// Keys [begin, end) of query i on an axis of `length` tokens, one dilation group.
struct neighborhood_window {
  int begin, end;

  neighborhood_window(const heed::neighborhood_axis& a, int length, int i) {
    if (a.causal) {
      const int leader = std::min(i / a.stride * a.stride + a.stride - 1, length - 1);
      begin = std::max(leader - (a.window - 1), 0);
      end = i + 1;
    } else {
      const int leader = std::min(i / a.stride * a.stride + a.stride / 2, length - 1);
      begin = std::min(std::max(leader - a.window / 2, 0), length - a.window);
      end = begin + a.window;
    }
  }
};

/// A grid of tokens, row-major.
class neighborhood_pairs {
 public:
  explicit neighborhood_pairs(std::vector<heed::neighborhood_axis> axes) : axes_(std::move(axes)) {}

  index_t tokens() const {
    index_t n = 1;
    for (const auto& a : axes_) n *= a.length;
    return n;
  }

  /// Entries of a table of relative positions.
  index_t entries() const {
    index_t n = 1;
    for (const auto& a : axes_) n *= 2 * a.window - 1;
    return n;
  }

  bool visible(index_t query, index_t key) const {
    for (std::size_t n = axes_.size(); n-- > 0;) {
      const auto& a = axes_[n];
      const int x = static_cast<int>(query % a.length), y = static_cast<int>(key % a.length);
      query /= a.length;
      key /= a.length;
      if (x % a.dilation != y % a.dilation) return false;
      const int size = (a.length - x % a.dilation + a.dilation - 1) / a.dilation;
      const neighborhood_window w(a, size, x / a.dilation);
      if (y / a.dilation < w.begin || y / a.dilation >= w.end) return false;
    }
    return true;
  }

  /// The entry of a table of relative positions that belongs to a visible pair.
  index_t entry(index_t query, index_t key) const {
    index_t at = 0, pitch = 1;
    for (std::size_t n = axes_.size(); n-- > 0;) {
      const auto& a = axes_[n];
      at += pitch * (key % a.length / a.dilation - query % a.length / a.dilation + a.window - 1);
      pitch *= 2 * a.window - 1;
      query /= a.length;
      key /= a.length;
    }
    return at;
  }

 private:
  std::vector<heed::neighborhood_axis> axes_;
};

/// What a call of neighborhood attention is about. Empty views: none.
template <class S>
struct neighborhood_arguments {
  heed::view<const S, 4> q, k, v, k_extra, v_extra;
  heed::view<const S, 2> bias;  // [H, entries]
  std::optional<double> scale;
  double softcap = 0;
};

struct neighborhood_gradients {
  softmax_gradients all;                       // dk, dv: extra keys first
  heed::tensor<double, 2> table, table_noise;  // [H, entries]
};

namespace detail {

/// Rows of the extra keys, then of the grid's.
template <class S>
heed::tensor<S, 4> joined(const heed::view<const S, 4>& extra, const heed::view<const S, 4>& grid) {
  const index_t M2 = extra.extent(2);
  heed::tensor<S, 4> all({grid.extent(0), grid.extent(1), M2 + grid.extent(2), grid.extent(3)});
  for (index_t b = 0; b < all.extent(0); ++b)
    for (index_t g = 0; g < all.extent(1); ++g)
      for (index_t j = 0; j < all.extent(2); ++j)
        for (index_t d = 0; d < all.extent(3); ++d)
          all(b, g, j, d) = j < M2 ? extra(b, g, j, d) : grid(b, g, j - M2, d);
  return all;
}

template <class S>
softmax_arguments masked(const neighborhood_arguments<S>& a, const neighborhood_pairs& pairs) {
  const index_t M2 = a.k_extra.extent(2);
  softmax_arguments m;
  m.scale = a.scale;
  m.softcap = a.softcap;
  m.q_offset = 0;
  m.visible = [&pairs, M2](int, int, int p, int t) { return t < M2 || pairs.visible(p, t - M2); };
  if (!a.bias) return m;
  m.bias = [&pairs, M2, bias = a.bias](int, int h, index_t i, index_t j) {
    return j < M2 ? 0.0 : static_cast<double>(bias(h, pairs.entry(i, j - M2)));
  };
  m.bias_extents = {1, a.q.extent(1), a.q.extent(2), M2 + a.q.extent(2)};
  return m;
}

}  // namespace detail

template <class S>
softmax_result neighborhood(const neighborhood_arguments<S>& a, const neighborhood_pairs& pairs) {
  const auto k = detail::joined(a.k_extra, a.k), v = detail::joined(a.v_extra, a.v);
  return softmax<S>(a.q, k, v, detail::masked(a, pairs));
}

template <class S>
neighborhood_gradients neighborhood_backward(const neighborhood_arguments<S>& a, const neighborhood_pairs& pairs,
                                             const heed::view<const S, 4>& dout,
                                             const heed::view<const heed::accumulator_t<S>, 3>& dlse) {
  const auto k = detail::joined(a.k_extra, a.k), v = detail::joined(a.v_extra, a.v);
  const index_t H = a.q.extent(1), N = a.q.extent(2), M2 = a.k_extra.extent(2);
  neighborhood_gradients result{softmax_backward<S>(a.q, k, v, dout, dlse, detail::masked(a, pairs)),
                                heed::tensor<double, 2>({H, pairs.entries()}),
                                heed::tensor<double, 2>({H, pairs.entries()})};
  if (!a.bias) return result;
  for (index_t h = 0; h < H; ++h)
    for (index_t i = 0; i < N; ++i)
      for (index_t j = 0; j < N; ++j) {
        if (!pairs.visible(i, j)) continue;
        result.table(h, pairs.entry(i, j)) += result.all.dbias(0, h, i, M2 + j);
        result.table_noise(h, pairs.entry(i, j)) += result.all.dbias_noise(0, h, i, M2 + j);
      }
  return result;
}

}  // namespace reference
