// Removes noise from a photograph by neighborhood attention, and shows what one pixel looked at.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "arguments.hpp"
#include "filter.hpp"

namespace {

using namespace command_line;
using namespace denoise;

constexpr const char* usage = R"(usage: denoise [option]...

Adds noise to a photograph and removes it by non-local means: attention over the pixels around each pixel.

  --image PATH      a PNG file (default: build/photographs/chelsea.png)
  --out FOLDER      where noisy.png, denoised.png and attention.png go (default: build/denoise)
  --sigma S         standard deviation of the noise, of 255; 0 filters the photograph as it is (default: 25)
  --seed K          of the noise (default: 1)
  --window W        each pixel looks at W x W pixels (default: 21)
  --patch P         and compares P x P pixels around each; odd (default: 5)
  --bandwidth H     difference of colours, of 255, at which weights fall to 1/e (default: 0.85 sigma, at least 2)
  --pixel X,Y       whose attention to draw (default: the middle)
  --crop S          compares with attention over all pixels on a square of S x S of them (default: 96)
  --help            print this

OMP_NUM_THREADS sets the number of threads.
)";

struct arguments {
  std::filesystem::path photograph = "build/photographs/chelsea.png", out = "build/denoise";
  double sigma = 25, bandwidth = 0;
  unsigned seed = 1;
  filter_settings filter;
  index_t x = -1, y = -1, crop = 96;
  bool help = false;
};

arguments read_arguments(int count, char** given) {
  arguments a;
  for_each_option(count, given, [&](std::string_view option, const auto& value) {
    if (option == "--image") {
      a.photograph = value();
    } else if (option == "--out") {
      a.out = value();
    } else if (option == "--sigma") {
      a.sigma = number<double>(option, value(), 0, 255);
    } else if (option == "--seed") {
      a.seed = number<unsigned>(option, value(), 0, 1'000'000'000);
    } else if (option == "--window") {
      a.filter.window = number<int>(option, value(), 2, 1000);
    } else if (option == "--patch") {
      a.filter.patch = number<int>(option, value(), 1, 31);
      if (a.filter.patch % 2 == 0) throw usage_error("--patch needs an odd number");
    } else if (option == "--bandwidth") {
      a.bandwidth = number<double>(option, value(), 0.1, 1000);
    } else if (option == "--pixel") {
      const std::string pixel = value();
      const std::string_view text = pixel;
      const std::size_t comma = text.find(',');
      if (comma == std::string_view::npos) throw usage_error("--pixel needs X,Y");
      a.x = number<index_t>(option, text.substr(0, comma), 0, 1'000'000);
      a.y = number<index_t>(option, text.substr(comma + 1), 0, 1'000'000);
    } else if (option == "--crop") {
      a.crop = number<index_t>(option, value(), 2, 1000);
    } else if (option == "--help" || option == "-h") {
      a.help = true;
    } else {
      throw usage_error("unknown option '" + std::string(option) + "'");
    }
  });
  a.filter.bandwidth = (a.bandwidth > 0 ? a.bandwidth : std::max(2.0, 0.85 * a.sigma)) / 255;
  return a;
}

/// Seconds that f takes.
template <class F>
double seconds_of(const F& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// From black over red and yellow to white.
image heat(const heed::tensor<float, 2>& weights) {
  const float most = *std::max_element(weights.begin(), weights.end());
  image colours({weights.extent(0), weights.extent(1), 3});
  for (index_t i = 0; i < weights.size(); ++i) {
    // The square root lets small weights be seen.
    const float t = 3 * std::sqrt(weights.data()[i] / most);
    for (int c = 0; c < 3; ++c) colours.data()[3 * i + c] = std::clamp(t - static_cast<float>(c), 0.0f, 1.0f);
  }
  return colours;
}

/// The window of pixel (y, x) in a picture, in its filtered form and in the weights that were given to it.
image picture_of_attention(const image& noisy, const image& denoised, const heed::tensor<float, 2>& weights, int window,
                           index_t y, index_t x) {
  constexpr index_t zoom = 12;
  const index_t height = std::min<index_t>(window, height_of(noisy)),
                width = std::min<index_t>(window, width_of(noisy));
  const index_t top = std::clamp<index_t>(y - height / 2, 0, height_of(noisy) - height);
  const index_t left = std::clamp<index_t>(x - width / 2, 0, width_of(noisy) - width);
  std::vector<image> parts;
  for (const image& whole : {noisy, denoised, heat(weights)}) {
    image part = enlarge(crop(whole, top, left, height, width), zoom);
    // A frame around the pixel.
    for (index_t i = 0; i < zoom; ++i)
      for (const auto& [v, u] : {std::pair{index_t(0), i}, {zoom - 1, i}, {i, index_t(0)}, {i, zoom - 1}}) {
        float* const dot = &part((y - top) * zoom + v, (x - left) * zoom + u, 0);
        dot[0] = 0, dot[1] = 1, dot[2] = 0;
      }
    parts.push_back(std::move(part));
  }
  return side_by_side(parts);
}

/// Whether the weights that heed gives for a pixel add up to one, and the pixels they weigh to what the filter gave.
bool consistent(const heed::tensor<float, 2>& weights, const image& noisy, const image& denoised, index_t y,
                index_t x) {
  double sum = 0, mean[3] = {};
  for (index_t i = 0; i < weights.size(); ++i) {
    sum += double(weights.data()[i]);
    for (int c = 0; c < 3; ++c) mean[c] += double(weights.data()[i]) * double(noisy.data()[3 * i + c]);
  }
  bool close = std::abs(sum - 1) < 1e-4;
  for (int c = 0; c < 3; ++c) close = close && std::abs(mean[c] - double(denoised(y, x, c))) < 1e-4;
  return close;
}

void compare_on_crop(const image& clean, const image& noisy, const filter_settings& settings, index_t side) {
  const index_t height = std::min(side, height_of(noisy)), width = std::min(side, width_of(noisy));
  const index_t top = (height_of(noisy) - height) / 2, left = (width_of(noisy) - width) / 2;
  const image part = crop(noisy, top, left, height, width), original = crop(clean, top, left, height, width);
  const attention_input in(part, settings);
  image near, all;
  const double near_time = seconds_of([&] { near = filter(part, in, settings).picture; });
  const double all_time = seconds_of([&] { all = filter_by_all(part, in).picture; });
  std::printf("on a crop of %lld x %lld\n", static_cast<long long>(width), static_cast<long long>(height));
  std::printf("  windows       %7.1f ms  %5.2f dB\n", 1e3 * near_time, psnr(near, original));
  std::printf("  all pixels    %7.1f ms  %5.2f dB\n", 1e3 * all_time, psnr(all, original));
}

int run(const arguments& a) {
  if (!std::filesystem::exists(a.photograph))
    throw std::runtime_error("there is no " + a.photograph.string() +
                             "; give a PNG file with --image, or get the default one with "
                             "examples/denoise/fetch_photograph.sh");
  const image clean = read_png(a.photograph);
  const index_t height = height_of(clean), width = width_of(clean);
  if (height < 2 || width < 2) throw std::runtime_error(a.photograph.string() + " is smaller than 2 x 2 pixels");
  const index_t y = a.y < 0 ? height / 2 : a.y, x = a.x < 0 ? width / 2 : a.x;
  if (y >= height || x >= width) throw usage_error("--pixel needs a pixel of the picture");
  const image noisy = a.sigma > 0 ? add_noise(clean, a.sigma / 255, a.seed) : clean;

  const attention_input in(noisy, a.filter);
  filtered result;
  const double time = seconds_of([&] { result = filter(noisy, in, a.filter); });

  const heed::neighborhood_axes axes = axes_of(noisy, a.filter);
  const double pairs = double(height) * double(width) * axes[0].window * axes[1].window;
  const double flops = 2 * pairs * double(in.q.extent(3) + in.v.extent(3));
  std::printf("%lld x %lld pixels, each looks at %d x %d and compares %d x %d: %lld features\n",
              static_cast<long long>(width), static_cast<long long>(height), axes[1].window, axes[0].window,
              a.filter.patch, a.filter.patch, static_cast<long long>(in.q.extent(3)));
  std::printf("attention in %.0f ms: %.2f megapixels/s, %.0f GFLOP/s\n", 1e3 * time,
              double(height) * double(width) / time / 1e6, flops / time / 1e9);
  if (a.sigma > 0) {
    std::printf("noise of %g: %.2f dB, filtered %.2f dB\n", a.sigma, psnr(noisy, clean), psnr(result.picture, clean));
    compare_on_crop(clean, noisy, a.filter, a.crop);
  }

  const heed::tensor<float, 2> weights = weights_of(noisy, in, result, a.filter, y, x);
  std::filesystem::create_directories(a.out);
  write_png(noisy, a.out / "noisy.png");
  write_png(result.picture, a.out / "denoised.png");
  write_png(picture_of_attention(noisy, result.picture, weights, a.filter.window, y, x), a.out / "attention.png");
  std::printf("%s holds noisy.png, denoised.png and, of pixel %lld,%lld, attention.png\n", a.out.c_str(),
              static_cast<long long>(x), static_cast<long long>(y));
  if (!consistent(weights, noisy, result.picture, y, x)) {
    std::printf("the weights of the pixel do not give what the filter gave\n");
    return 1;
  }
  return 0;
}

}  // namespace

int main(int count, char** given) {
  try {
    const arguments a = read_arguments(count, given);
    if (a.help) {
      std::fputs(usage, stdout);
      return 0;
    }
    return run(a);
  } catch (const usage_error& e) {
    std::fprintf(stderr, "denoise: %s; see denoise --help\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "denoise: %s\n", e.what());
    return 1;
  }
}
