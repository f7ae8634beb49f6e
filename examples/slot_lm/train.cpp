// Trains the model that slot_lm writes with.
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include "arguments.hpp"
#include "held_out.hpp"
#include "trainer.hpp"

namespace {

using namespace command_line;
using namespace slot_lm;

constexpr const char* usage = R"(usage: slot_lm_train [option]...

Trains a small language model of bytes on a text, with AdamW and a rate that falls as a cosine.

  --text FILE       what to learn (default: build/corpus/jargon.txt)
  --held-out FILE   a passage of it to leave out, and to measure by (default: examples/slot_lm/held_out.txt)
  --out FILE        where the weights go, every 500 steps and in the end (default: build/slot_lm.bin)
  --steps N         default: 5000
  --batch N         windows of the text a step (default: 4)
  --length N        bytes of a window (default: 256)
  --rate X          highest learning rate (default: 4e-3)
  --seed N          of the first weights and of the windows (default: 1)
  --layers N, --width N, --heads N, --features N, --slots N, --inner N
                    the shape of the model (default: 4, 128, 4, 32, 32, 256)
  --help            print this

OMP_NUM_THREADS sets the number of threads, each of which works on windows of its own.
)";

struct arguments {
  std::filesystem::path text = "build/corpus/jargon.txt", held_out = "examples/slot_lm/held_out.txt",
                        out = "build/slot_lm.bin";
  model_shape shape;
  training_settings settings;
  bool help = false;
};

arguments read_arguments(int count, char** given) {
  arguments a;
  for_each_option(count, given, [&](std::string_view option, const auto& value) {
    const auto extent = [&] { return number<std::int32_t>(option, value(), 1, 4096); };
    if (option == "--text")
      a.text = value();
    else if (option == "--held-out")
      a.held_out = value();
    else if (option == "--out")
      a.out = value();
    else if (option == "--steps")
      a.settings.steps = number<index_t>(option, value(), 1, 1'000'000'000);
    else if (option == "--batch")
      a.settings.batch = extent();
    else if (option == "--length")
      a.settings.length = number<index_t>(option, value(), 1, 65536);
    else if (option == "--rate")
      a.settings.rate = number<double>(option, value(), 0, 1);
    else if (option == "--seed")
      a.settings.seed = number<unsigned>(option, value(), 0, 1'000'000'000);
    else if (option == "--layers")
      a.shape.layers = extent();
    else if (option == "--width")
      a.shape.width = extent();
    else if (option == "--heads")
      a.shape.heads = extent();
    else if (option == "--features")
      a.shape.features = extent();
    else if (option == "--slots")
      a.shape.slots = extent();
    else if (option == "--inner")
      a.shape.inner = extent();
    else if (option == "--help" || option == "-h")
      a.help = true;
    else
      throw usage_error("unknown option '" + std::string(option) + "'");
  });
  return a;
}

void run(const arguments& a) {
  std::string text = read_text(a.text);
  const std::string held_out = read_text(a.held_out);
  const std::size_t place = text.find(held_out);
  if (place == std::string::npos) throw std::runtime_error(a.held_out.string() + " is no passage of the text");
  text.erase(place, held_out.size());
  if (std::ssize(text) <= a.settings.length) throw std::runtime_error(a.text.string() + " is shorter than a window");

  trainer training(a.shape, a.settings);
  std::printf("%zu weights, %zu bytes of text\n", training.weights().size(), text.size());
  const auto start = std::chrono::steady_clock::now();
  constexpr index_t between_lines = 50, between_files = 500;
  double bits = 0;
  for (index_t step = 1; step <= a.settings.steps; ++step) {
    bits += training.step(text);
    if (step % between_lines == 0) {
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      bits /= between_lines;
      std::printf("step %5lld  loss %.4f, %.4f bits a byte  %.0f s\n", static_cast<long long>(step),
                  bits * std::numbers::ln2, bits, time.count());
      bits = 0;
    }
    if (step % between_files == 0 || step == a.settings.steps) {
      write_weights(a.out, a.shape, training.weights());
      const decoder model(read_weights(a.out));
      std::printf("held out: %.4f bits a byte\n", bits_per_byte(read_in_chunks(model, held_out), held_out));
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** given) {
  try {
    const arguments a = read_arguments(count, given);
    if (a.help)
      std::fputs(usage, stdout);
    else
      run(a);
    return 0;
  } catch (const usage_error& error) {
    std::fprintf(stderr, "slot_lm_train: %s; see slot_lm_train --help\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "slot_lm_train: %s\n", error.what());
    return 1;
  }
}
