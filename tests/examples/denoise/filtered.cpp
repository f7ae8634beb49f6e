// The filter of examples/denoise against its definition, and its files.
#include "support/catch.hpp"

#include "filter.hpp"

using namespace denoise;

namespace {

image some_picture(index_t height, index_t width) {
  image picture({height, width, 3});
  std::mt19937 random(1);
  std::uniform_real_distribution<float> colour(0, 1);
  for (float& x : picture) x = colour(random);
  return picture;
}

/// Where row or column i of a picture that goes on as in a mirror is to be found.
index_t mirrored(index_t i, index_t length) { return i < 0 ? -i : i >= length ? 2 * (length - 1) - i : i; }

/// -|P_i - P_j|^2 / (n h^2)
double logit(const image& p, const filter_settings& s, index_t yi, index_t xi, index_t yj, index_t xj) {
  const index_t reach = s.patch / 2, height = p.extent(0), width = p.extent(1);
  double sum = 0;
  for (index_t dy = -reach; dy <= reach; ++dy)
    for (index_t dx = -reach; dx <= reach; ++dx)
      for (index_t c = 0; c < 3; ++c) {
        const double difference = double(p(mirrored(yi + dy, height), mirrored(xi + dx, width), c)) -
                                  double(p(mirrored(yj + dy, height), mirrored(xj + dx, width), c));
        sum += difference * difference;
      }
  return -sum / (3.0 * s.patch * s.patch * s.bandwidth * s.bandwidth);
}

/// First of the `window` pixels of an axis that pixel i looks at.
index_t first_of(index_t i, index_t window, index_t length) {
  return std::clamp<index_t>(i - window / 2, 0, length - window);
}

}  // namespace

TEST_CASE("denoise: the filter is the mean that non-local means define") {
  const filter_settings settings{.window = 5, .patch = 3, .bandwidth = 0.3};
  const image picture = some_picture(9, 12);
  const attention_input in(picture, settings);
  const filtered result = filter(picture, in, settings);
  for (index_t y = 0; y < 9; ++y)
    for (index_t x = 0; x < 12; ++x) {
      const heed::tensor<float, 2> weights = weights_of(picture, in, result, settings, y, x);
      const index_t top = first_of(y, 5, 9), left = first_of(x, 5, 12);
      double total = 0, mean[3] = {}, seen = 0;
      for (index_t v = top; v < top + 5; ++v)
        for (index_t u = left; u < left + 5; ++u) {
          const double weight = std::exp(logit(picture, settings, y, x, v, u));
          total += weight;
          for (index_t c = 0; c < 3; ++c) mean[c] += weight * double(picture(v, u, c));
        }
      for (index_t c = 0; c < 3; ++c)
        CHECK(double(result.picture(y, x, c)) == Catch::Approx(mean[c] / total).margin(1e-5));
      for (index_t v = top; v < top + 5; ++v)
        for (index_t u = left; u < left + 5; ++u) {
          CHECK(double(weights(v, u)) ==
                Catch::Approx(std::exp(logit(picture, settings, y, x, v, u)) / total).margin(1e-5));
          seen += double(weights(v, u));
        }
      CHECK(seen == Catch::Approx(1).margin(1e-5));
    }
}

TEST_CASE("denoise: a window as large as the picture looks at all pixels") {
  const filter_settings settings{.window = 50, .patch = 1, .bandwidth = 0.2};
  const image picture = some_picture(7, 6);
  const attention_input in(picture, settings);
  const image near = filter(picture, in, settings).picture, all = filter_by_all(picture, in).picture;
  for (index_t i = 0; i < near.size(); ++i) CHECK(near.data()[i] == Catch::Approx(all.data()[i]).margin(1e-5));
}

TEST_CASE("denoise: pictures are written and read") {
  const std::filesystem::path path = std::filesystem::temp_directory_path() / "heed_denoise_test.png";
  const image picture = some_picture(5, 3);
  write_png(picture, path);
  const image again = read_png(path);
  std::filesystem::remove(path);
  REQUIRE(again.extent(0) == 5);
  REQUIRE(again.extent(1) == 3);
  for (index_t i = 0; i < picture.size(); ++i)
    CHECK(double(again.data()[i]) == Catch::Approx(double(picture.data()[i])).margin(0.5001 / 255));
  CHECK_THROWS_WITH(read_png(path), Catch::Matchers::ContainsSubstring("cannot read"));
}

TEST_CASE("denoise: the signal to noise ratio is that of the noise") {
  const image flat = image::full({100, 100, 3}, 0.5f);
  CHECK(psnr(add_noise(flat, 0.1, 7), flat) == Catch::Approx(20).margin(0.2));
}
