/// Colour pictures in memory, and in PNG files.
#pragma once

#include <heed/core/tensor.hpp>

#include <png.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace denoise {

using heed::index_t;

/// [height, width, 3]: red, green and blue of each pixel as files hold them, 0 to 1.
using image = heed::tensor<float, 3>;

inline index_t height_of(const image& picture) { return picture.extent(0); }
inline index_t width_of(const image& picture) { return picture.extent(1); }

namespace detail {

/// What libpng keeps while a file is open.
class png_file {
 public:
  png_file() { picture.version = PNG_IMAGE_VERSION; }
  png_file(const png_file&) = delete;
  png_file& operator=(const png_file&) = delete;
  ~png_file() { png_image_free(&picture); }

  void require(int succeeded, const char* what, const std::filesystem::path& path) const {
    if (succeeded == 0) throw std::runtime_error(std::string(what) + ' ' + path.string() + ": " + picture.message);
  }

  png_image picture{};
};

}  // namespace detail

/// Reads a PNG file of any kind; transparent pixels are put on black.
/// Throws std::runtime_error if there is none, or if it is damaged.
inline image read_png(const std::filesystem::path& path) {
  detail::png_file file;
  file.require(png_image_begin_read_from_file(&file.picture, path.c_str()), "cannot read", path);
  file.picture.format = PNG_FORMAT_RGB;
  std::vector<png_byte> bytes(PNG_IMAGE_SIZE(file.picture));
  const png_color black{};
  file.require(png_image_finish_read(&file.picture, &black, bytes.data(), 0, nullptr), "cannot read", path);
  image result({file.picture.height, file.picture.width, 3});
  std::transform(bytes.begin(), bytes.end(), result.begin(), [](png_byte x) { return static_cast<float>(x) / 255; });
  return result;
}

/// Writes a picture with 8 bits a colour; what is below 0 or above 1 is cut off.
/// Throws std::runtime_error if that is not possible.
inline void write_png(const image& picture, const std::filesystem::path& path) {
  std::vector<png_byte> bytes(static_cast<std::size_t>(picture.size()));
  std::transform(picture.begin(), picture.end(), bytes.begin(),
                 [](float x) { return static_cast<png_byte>(std::lround(255 * std::clamp(x, 0.0f, 1.0f))); });
  detail::png_file file;
  file.picture.width = static_cast<png_uint_32>(width_of(picture));
  file.picture.height = static_cast<png_uint_32>(height_of(picture));
  file.picture.format = PNG_FORMAT_RGB;
  file.require(png_image_write_to_file(&file.picture, path.c_str(), 0, bytes.data(), 0, nullptr), "cannot write", path);
}

/// The part of a picture whose upper left corner is (y, x).
inline image crop(const image& picture, index_t y, index_t x, index_t height, index_t width) {
  image part({height, width, 3});
  for (index_t i = 0; i < height; ++i) std::copy_n(&picture(y + i, x, 0), 3 * width, &part(i, 0, 0));
  return part;
}

/// Each pixel as a square of `times` by `times`.
inline image enlarge(const image& picture, index_t times) {
  image large({times * height_of(picture), times * width_of(picture), 3});
  for (index_t y = 0; y < height_of(large); ++y)
    for (index_t x = 0; x < width_of(large); ++x) std::copy_n(&picture(y / times, x / times, 0), 3, &large(y, x, 0));
  return large;
}

/// Pictures of one height from left to right, with a white line between.
inline image side_by_side(const std::vector<image>& pictures) {
  constexpr index_t gap = 8;
  index_t width = -gap;
  for (const image& p : pictures) width += width_of(p) + gap;
  image all = image::full({height_of(pictures.front()), width, 3}, 1);
  index_t left = 0;
  for (const image& p : pictures) {
    for (index_t y = 0; y < height_of(p); ++y) std::copy_n(&p(y, 0, 0), 3 * width_of(p), &all(y, left, 0));
    left += width_of(p) + gap;
  }
  return all;
}

/// A picture with normal noise of standard deviation `sigma`.
inline image add_noise(image picture, double sigma, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> noise(0, static_cast<float>(sigma));
  for (float& x : picture) x += noise(random);
  return picture;
}

/// Peak signal to noise ratio in decibels: 10 log10 of 1 / (mean square of the difference).
inline double psnr(const image& a, const image& b) {
  double sum = 0;
  for (index_t i = 0; i < a.size(); ++i) {
    const double difference = double(a.data()[i]) - double(b.data()[i]);
    sum += difference * difference;
  }
  return 10 * std::log10(static_cast<double>(a.size()) / sum);
}

}  // namespace denoise
