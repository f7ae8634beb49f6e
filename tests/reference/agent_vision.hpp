/// What vision models have around agent attention, from its definition, in double, on one image of one channel.
#pragma once

#include <heed/core/view.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace reference {

using heed::index_t;

/// height x width numbers.
struct image {
  index_t height, width;
  std::vector<double> pixels = std::vector<double>(static_cast<std::size_t>(height * width));

  double& operator()(index_t y, index_t x) { return pixels[static_cast<std::size_t>(y * width + x)]; }
  double operator()(index_t y, index_t x) const { return pixels[static_cast<std::size_t>(y * width + x)]; }
};

/// Adaptive average pooling.
inline image pooled(const image& x, index_t height, index_t width) {
  image out{height, width};
  const auto low = [](index_t cell, index_t cells, index_t length) {
    return static_cast<index_t>(std::floor(static_cast<double>(cell * length) / static_cast<double>(cells)));
  };
  const auto high = [](index_t cell, index_t cells, index_t length) {
    return static_cast<index_t>(std::ceil(static_cast<double>((cell + 1) * length) / static_cast<double>(cells)));
  };
  for (index_t i = 0; i < height; ++i)
    for (index_t j = 0; j < width; ++j) {
      double sum = 0, count = 0;
      for (index_t y = low(i, height, x.height); y < high(i, height, x.height); ++y)
        for (index_t c = low(j, width, x.width); c < high(j, width, x.width); ++c) {
          sum += x(y, c);
          ++count;
        }
      out(i, j) = sum / count;
    }
  return out;
}

/// Bilinear interpolation, half-pixel centres, edges repeated: first the rows, then the columns.
inline image resized(const image& x, index_t height, index_t width) {
  const auto source = [](index_t at, index_t from, index_t to) {
    return std::max(0.0, (static_cast<double>(at) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5);
  };
  image tall{height, x.width}, out{height, width};
  for (index_t y = 0; y < height; ++y)
    for (index_t c = 0; c < x.width; ++c) {
      const double s = source(y, x.height, height);
      const index_t low = std::min(static_cast<index_t>(s), x.height - 1), next = std::min(low + 1, x.height - 1);
      tall(y, c) = x(low, c) * (1 - (s - static_cast<double>(low))) + x(next, c) * (s - static_cast<double>(low));
    }
  for (index_t y = 0; y < height; ++y)
    for (index_t c = 0; c < width; ++c) {
      const double s = source(c, x.width, width);
      const index_t low = std::min(static_cast<index_t>(s), x.width - 1), next = std::min(low + 1, x.width - 1);
      out(y, c) = tall(y, low) * (1 - (s - static_cast<double>(low))) + tall(y, next) * (s - static_cast<double>(low));
    }
  return out;
}

/// 3 x 3 correlation with zeros around the image.
inline image convolved(const image& x, const image& weight) {
  image out{x.height, x.width};
  for (index_t y = 0; y < x.height; ++y)
    for (index_t c = 0; c < x.width; ++c)
      for (index_t i = 0; i < 3; ++i)
        for (index_t j = 0; j < 3; ++j) {
          const index_t row = y + i - 1, column = c + j - 1;
          if (row >= 0 && row < x.height && column >= 0 && column < x.width) out(y, c) += weight(i, j) * x(row, column);
        }
  return out;
}

}  // namespace reference
