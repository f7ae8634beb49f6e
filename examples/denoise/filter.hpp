/// Non-local means as neighborhood attention: a pixel becomes the weighted mean of the pixels around it, and weighs those
/// most whose surroundings look like its own.
#pragma once

#include <heed/local.hpp>
#include <heed/softmax.hpp>

#include <algorithm>
#include <array>

#include "image.hpp"

namespace denoise {

struct filter_settings {
  int window = 21;         ///< a pixel looks at window x window pixels
  int patch = 5;           ///< what it compares are the patch x patch pixels around each, odd
  double bandwidth = 0.1;  ///< root mean square difference of colours at which a weight has fallen to 1/e
};

/// A picture as queries, keys and values [1,1,pixels,*].
///
/// With patches P of n numbers the weight of pixel j for pixel i is softmax_j(-|P_i - P_j|^2 / (n h^2)), h being the
/// bandwidth. |P_i|^2 is the same for all j, and
///     -|P_i - P_j|^2 + |P_i|^2 = 2 [P_i, 1] . [P_j, -|P_j|^2 / 2]
/// is a product of a query and a key, times 2 / (n h^2).
class attention_input {
 public:
  attention_input(const image& picture, const filter_settings& settings)
      : q({1, 1, pixels(picture), features(settings)}),
        k({1, 1, pixels(picture), features(settings)}),
        v({1, 1, pixels(picture), 3}),
        scale(2 / (double(features(settings) - 1) * settings.bandwidth * settings.bandwidth)) {
    const index_t height = height_of(picture), width = width_of(picture), reach = settings.patch / 2;
    const index_t last = features(settings) - 1;
    for (index_t y = 0; y < height; ++y)
      for (index_t x = 0; x < width; ++x) {
        const index_t pixel = y * width + x;
        float* const query = &q(0, 0, pixel, 0);
        float* to = query;
        for (index_t dy = -reach; dy <= reach; ++dy)
          for (index_t dx = -reach; dx <= reach; ++dx)
            for (index_t c = 0; c < 3; ++c)
              // About the middle of the range: smaller squares, smaller rounding errors.
              *to++ = picture(mirrored(y + dy, height), mirrored(x + dx, width), c) - 0.5f;
        float square = 0;
        for (index_t d = 0; d < last; ++d) square += query[d] * query[d];
        std::copy_n(query, last, &k(0, 0, pixel, 0));
        query[last] = 1;
        k(0, 0, pixel, last) = -square / 2;
        std::copy_n(&picture(y, x, 0), 3, &v(0, 0, pixel, 0));
      }
  }

  heed::tensor<float, 4> q, k, v;
  double scale;

 private:
  static index_t pixels(const image& picture) { return height_of(picture) * width_of(picture); }
  static index_t features(const filter_settings& s) { return 3 * index_t(s.patch) * s.patch + 1; }
  /// Pictures go on as in a mirror.
  static index_t mirrored(index_t i, index_t length) {
    if (i < 0) i = -i;
    if (i >= length) i = 2 * (length - 1) - i;
    return std::clamp<index_t>(i, 0, length - 1);
  }
};

/// The axes of the grid of pixels. Near the edges windows are shifted, not cut.
inline heed::neighborhood_axes axes_of(const image& picture, const filter_settings& settings) {
  const auto axis = [&](index_t length) {
    return heed::neighborhood_axis{static_cast<int>(length),
                                   static_cast<int>(std::min<index_t>(settings.window, length))};
  };
  return {axis(height_of(picture)), axis(width_of(picture))};
}

/// A filtered picture, and the log of the sum that each pixel's weights were divided by, [1,1,pixels].
struct filtered {
  image picture;
  heed::tensor<float, 3> lse;
};

namespace detail {

template <class Attend>
filtered attend(const image& picture, const attention_input& in, const Attend& attention) {
  filtered result{image({height_of(picture), width_of(picture), 3}), heed::tensor<float, 3>({1, 1, in.q.extent(2)})};
  const heed::view<float, 4> out(result.picture.data(), {1, 1, in.q.extent(2), 3});
  attention(out, result.lse);
  return result;
}

}  // namespace detail

/// Each pixel from those of its window.
inline filtered filter(const image& picture, const attention_input& in, const filter_settings& settings) {
  return detail::attend(picture, in, [&](const auto& out, auto& lse) {
    heed::neighborhood_forward(in.q, in.k, in.v, out, axes_of(picture, settings), {.scale = in.scale, .lse = lse});
  });
}

/// Each pixel from all others.
inline filtered filter_by_all(const image& picture, const attention_input& in) {
  return detail::attend(picture, in, [&](const auto& out, auto& lse) {
    heed::softmax_forward(in.q, in.k, in.v, out, {.scale = in.scale, .lse = lse});
  });
}

/// The weights of all pixels for pixel (y, x), [height, width].
inline heed::tensor<float, 2> weights_of(const image& picture, const attention_input& in, const filtered& result,
                                         const filter_settings& settings, index_t y, index_t x) {
  heed::tensor<float, 2> weights({height_of(picture), width_of(picture)});
  const index_t pixels = weights.size();
  const std::array<std::int32_t, 1> row = {static_cast<std::int32_t>(y * width_of(picture) + x)};
  const heed::neighborhood_axes axes = axes_of(picture, settings);
  heed::softmax_weights(in.q, in.k, result.lse, row, heed::view<float, 4>(weights.data(), {1, 1, 1, pixels}),
                        {.scale = in.scale}, heed::neighborhood<2>({axes[0], axes[1]}));
  return weights;
}

}  // namespace denoise
