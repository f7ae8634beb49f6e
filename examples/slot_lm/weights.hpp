/// The weights of the model: how many there are, in which order, and the file they are kept in.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <heed/core/float16.hpp>
#include <heed/core/view.hpp>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace slot_lm {

using heed::index_t;

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return bytes;
}

/// Tokens are bytes.
inline constexpr index_t vocabulary = 256;

struct model_shape {
  std::int32_t layers = 4;
  std::int32_t width = 128;    // W, of a token between layers
  std::int32_t heads = 4;      // H
  std::int32_t features = 32;  // D, of a head's query, key and value
  std::int32_t slots = 32;     // S, of a head
  std::int32_t inner = 256;    // I, of the gated MLP
  std::int32_t taps = 4;       // of the convolutions
  bool operator==(const model_shape&) const = default;
};

/// The weights follow one another in this order, matrices by rows:
///     embedding     [256, W]
///     of each layer
///       norm        [W]
///       projections [W, H (3 D + S)]    columns of q, k, v, then gates
///       convolution [taps, 3 H D]       of q, k and v; row n for what stood n bytes before
///       read norm   [H D]
///       out         [H D, W]
///       MLP norm    [W]
///       gate, up    [W, I] each
///       down        [I, W]
///     norm          [W]
///     unembedding   [W, 256]
struct model_weights {
  model_shape shape;
  std::vector<float> values;
};

/// Hands out the weights one after the other.
class weight_reader {
 public:
  explicit weight_reader(std::span<const float> values) : left_(values) {}

  heed::view<const float, 1> vector(index_t size) { return {take(size), {size}}; }
  heed::view<const float, 2> matrix(index_t rows, index_t cols) { return {take(rows * cols), {rows, cols}}; }
  void finish() const { require(left_.empty()); }

 private:
  const float* take(index_t size) {
    require(size <= std::ssize(left_));
    const float* const first = left_.data();
    left_ = left_.subspan(static_cast<std::size_t>(size));
    return first;
  }

  static void require(bool fits) {
    if (!fits) throw std::runtime_error("these are not as many weights as a model of their shape has");
  }

  std::span<const float> left_;
};

static_assert(std::endian::native == std::endian::little, "files are little-endian");
inline constexpr std::string_view weights_mark = "slot_lm1";

/// The file: `weights_mark`, the numbers of `model_shape` as int32, the weights as bfloat16; all little-endian.
inline void write_weights(const std::filesystem::path& path, const model_shape& shape, std::span<const float> values) {
  const std::vector<heed::bfloat16> rounded(values.begin(), values.end());
  std::ofstream file(path, std::ios::binary);
  file.write(weights_mark.data(), std::ssize(weights_mark));
  file.write(reinterpret_cast<const char*>(&shape), sizeof shape);
  file.write(reinterpret_cast<const char*>(rounded.data()), std::ssize(rounded) * sizeof(heed::bfloat16));
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

inline model_weights read_weights(const std::filesystem::path& path) {
  const std::string bytes = read_text(path);
  const auto fail = [&](const char* problem) { throw std::runtime_error(path.string() + problem); };
  model_weights weights;
  const std::size_t head = weights_mark.size() + sizeof weights.shape;
  if (bytes.size() < head || !bytes.starts_with(weights_mark)) fail(" holds no weights of slot_lm");
  std::memcpy(&weights.shape, bytes.data() + weights_mark.size(), sizeof weights.shape);
  for (const std::int32_t extent : std::bit_cast<std::array<std::int32_t, 7>>(weights.shape))
    if (extent < 1 || extent > 1 << 16) fail(" has the shape of no model");
  std::vector<heed::bfloat16> rounded((bytes.size() - head) / sizeof(heed::bfloat16));
  std::memcpy(rounded.data(), bytes.data() + head, rounded.size() * sizeof(heed::bfloat16));
  weights.values.assign(rounded.begin(), rounded.end());
  return weights;
}

}  // namespace slot_lm
