/// Window attention from its definition, in double: softmax attention over the whole padded grid, where a pair is
/// visible by where its tokens stand.
#pragma once

#include "reference/softmax.hpp"
#include "reference/softmax_backward.hpp"

#include <optional>

namespace reference {

/// Inputs, and where windows lie. Empty table: none. Empty k_pad: missing places have no keys.
template <class S>
struct swin_attention {
  heed::tensor<S, 4> q, k, v;
  index_t height, width, window_y, window_x, shift_y = 0, shift_x = 0;
  std::optional<double> scale{};
  heed::tensor<S, 2> table{}, k_pad{}, v_pad{};
};

/// Gradients and their noise as reference::softmax_backward has them.
struct swin_gradients {
  softmax_gradients rows;                        // dq, dk, dv, and their noise, of tokens
  heed::tensor<double, 2> dtable, dtable_noise;  // as the table
  heed::tensor<double, 2> dk_pad, dk_pad_noise, dv_pad, dv_pad_noise;
};

namespace detail {

/// One axis of the padded grid.
struct swin_axis {
  index_t length, window, shift, padded;

  swin_axis(index_t tokens, index_t size, index_t roll) : length(tokens), window(size), shift(roll) {
    if (window >= length) {
      window = length;
      shift = 0;
    }
    padded = (length + window - 1) / window * window;
  }
  index_t rolled(index_t at) const { return (at + padded - shift) % padded; }
  int region(index_t at) const {
    if (shift == 0) return 0;
    return rolled(at) < padded - window ? 0 : rolled(at) < padded - shift ? 1 : 2;
  }
  bool sees(index_t a, index_t b) const { return rolled(a) / window == rolled(b) / window && region(a) == region(b); }
  index_t offset(index_t query, index_t key) const { return rolled(query) % window - rolled(key) % window; }
};

/// The padded grid, as a problem of softmax attention.
template <class S>
struct padded_swin {
  explicit padded_swin(const swin_attention<S>& attention)
      : x(attention), y_axis(x.height, x.window_y, x.shift_y), x_axis(x.width, x.window_x, x.shift_x) {
    const index_t places = y_axis.padded * x_axis.padded;
    q = heed::tensor<S, 4>({x.q.extent(0), x.q.extent(1), places, x.q.extent(3)});
    k = heed::tensor<S, 4>({x.k.extent(0), x.k.extent(1), places, x.k.extent(3)});
    v = heed::tensor<S, 4>({x.v.extent(0), x.v.extent(1), places, x.v.extent(3)});
    copy(x.q, {}, q);
    copy(x.k, x.k_pad, k);
    copy(x.v, x.v_pad, v);
    arguments.scale = x.scale;
    arguments.visible = [this](int, int, int p, int t) {
      return y_axis.sees(row(p), row(t)) && x_axis.sees(column(p), column(t)) && (token(t) >= 0 || x.k_pad.size() > 0);
    };
    if (x.table.size() == 0) return;
    arguments.bias = [this](int, int h, index_t i, index_t j) {
      return arguments.visible(0, h, int(i), int(j)) ? static_cast<double>(x.table(offset(i, j), h)) : 0;
    };
    arguments.bias_extents = {1, x.q.extent(1), places, places};
  }

  index_t row(index_t place) const { return place / x_axis.padded; }
  index_t column(index_t place) const { return place % x_axis.padded; }
  /// The token at a place, or -1.
  index_t token(index_t place) const {
    return row(place) < x.height && column(place) < x.width ? row(place) * x.width + column(place) : -1;
  }
  index_t offset(index_t i, index_t j) const {
    return (y_axis.offset(row(i), row(j)) + x.window_y - 1) * (2 * x.window_x - 1) +
           x_axis.offset(column(i), column(j)) + x.window_x - 1;
  }
  void copy(const heed::tensor<S, 4>& from, const heed::tensor<S, 2>& missing, heed::tensor<S, 4>& to) const {
    for (index_t b = 0; b < to.extent(0); ++b)
      for (index_t h = 0; h < to.extent(1); ++h)
        for (index_t i = 0; i < to.extent(2); ++i)
          for (index_t d = 0; d < to.extent(3); ++d) {
            if (token(i) >= 0)
              to(b, h, i, d) = from(b, h, token(i), d);
            else if (missing.size() > 0)
              to(b, h, i, d) = missing(h, d);
          }
  }
  /// The rows of tokens.
  heed::tensor<double, 4> cropped(const heed::tensor<double, 4>& t) const {
    heed::tensor<double, 4> part({t.extent(0), t.extent(1), x.q.extent(2), t.extent(3)});
    for (index_t b = 0; b < t.extent(0); ++b)
      for (index_t h = 0; h < t.extent(1); ++h)
        for (index_t i = 0; i < t.extent(2); ++i)
          for (index_t d = 0; d < t.extent(3) && token(i) >= 0; ++d) part(b, h, token(i), d) = t(b, h, i, d);
    return part;
  }
  heed::tensor<double, 3> cropped(const heed::tensor<double, 3>& t) const {
    heed::tensor<double, 3> part({t.extent(0), t.extent(1), x.q.extent(2)});
    for (index_t b = 0; b < t.extent(0); ++b)
      for (index_t h = 0; h < t.extent(1); ++h)
        for (index_t i = 0; i < t.extent(2); ++i)
          if (token(i) >= 0) part(b, h, token(i)) = t(b, h, i);
    return part;
  }
  /// Sums over all other places.
  heed::tensor<double, 2> missing(const heed::tensor<double, 4>& t) const {
    heed::tensor<double, 2> sum({t.extent(1), t.extent(3)});
    for (index_t b = 0; b < t.extent(0); ++b)
      for (index_t h = 0; h < t.extent(1); ++h)
        for (index_t i = 0; i < t.extent(2); ++i)
          for (index_t d = 0; d < t.extent(3) && token(i) < 0; ++d) sum(h, d) += t(b, h, i, d);
    return sum;
  }
  heed::tensor<double, 2> by_table(const heed::tensor<double, 4>& t) const {
    heed::tensor<double, 2> sum({x.table.extent(0), x.table.extent(1)});
    for (index_t h = 0; h < t.extent(1); ++h)
      for (index_t i = 0; i < t.extent(2); ++i)
        for (index_t j = 0; j < t.extent(3); ++j)
          if (arguments.visible(0, 0, int(i), int(j))) sum(offset(i, j), h) += t(0, h, i, j);
    return sum;
  }

  const swin_attention<S>& x;
  swin_axis y_axis, x_axis;
  heed::tensor<S, 4> q, k, v;
  softmax_arguments arguments;
};

}  // namespace detail

template <class S>
softmax_result swin(const swin_attention<S>& x) {
  const detail::padded_swin<S> padded(x);
  const softmax_result r = softmax<S>(padded.q, padded.k, padded.v, padded.arguments);
  return {padded.cropped(r.out), padded.cropped(r.out_noise), padded.cropped(r.lse), padded.cropped(r.lse_noise),
          x.q.extent(2)};
}

template <class S>
swin_gradients swin_backward(const swin_attention<S>& x, const heed::tensor<S, 4>& dout) {
  const detail::padded_swin<S> padded(x);
  heed::tensor<S, 4> upstream({dout.extent(0), dout.extent(1), padded.q.extent(2), dout.extent(3)});
  padded.copy(dout, {}, upstream);
  const softmax_gradients g = softmax_backward<S>(padded.q, padded.k, padded.v, upstream, {}, padded.arguments);
  swin_gradients result{};
  result.rows.dq = padded.cropped(g.dq);
  result.rows.dk = padded.cropped(g.dk);
  result.rows.dv = padded.cropped(g.dv);
  result.rows.dq_noise = padded.cropped(g.dq_noise);
  result.rows.dk_noise = padded.cropped(g.dk_noise);
  result.rows.dv_noise = padded.cropped(g.dv_noise);
  if (x.table.size() > 0) {
    result.dtable = padded.by_table(g.dbias);
    result.dtable_noise = padded.by_table(g.dbias_noise);
  }
  if (x.k_pad.size() > 0) {
    result.dk_pad = padded.missing(g.dk);
    result.dk_pad_noise = padded.missing(g.dk_noise);
    result.dv_pad = padded.missing(g.dv);
    result.dv_pad_noise = padded.missing(g.dv_noise);
  }
  return result;
}

}  // namespace reference
