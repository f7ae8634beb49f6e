// Writes text byte by byte with a small language model of Gated Slot Attention, whose memory does not grow, and checks
// that states can be stored and that steps and chunks say the same.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "arguments.hpp"
#include "held_out.hpp"
#include "session.hpp"

namespace {

using namespace command_line;
using namespace slot_lm;

constexpr const char* usage = R"(usage: slot_lm [option]...

Continues a text byte by byte, and measures how well the model predicts a text that it has not seen.

  --prompt TEXT     what to continue (default: the beginning of an entry of a glossary)
  --bytes N         how many bytes to write (default: 600)
  --temperature T   0: the likeliest byte each time; 1: as the model says (default: 0.6)
  --seed N          of the random numbers (default: 1)
  --save FILE       stores the session in the end: state, random number and last byte
  --restore FILE    begins with a stored session; a prompt is then read after what it has seen
  --weights FILE    default: examples/slot_lm/weights.bin
  --text FILE       the text to predict (default: examples/slot_lm/held_out.txt)
  --no-check        write only
  --help            print this
)";

struct arguments {
  std::optional<std::string> prompt;
  index_t bytes = 600;
  double temperature = 0.6;
  std::uint64_t seed = 1;
  std::filesystem::path save, restore, weights = "examples/slot_lm/weights.bin", text = "examples/slot_lm/held_out.txt";
  bool check = true, help = false;
};

arguments read_arguments(int count, char** given) {
  arguments a;
  for_each_option(count, given, [&](std::string_view option, const auto& value) {
    if (option == "--prompt")
      a.prompt = value();
    else if (option == "--bytes")
      a.bytes = number<index_t>(option, value(), 1, 1'000'000'000);
    else if (option == "--temperature")
      a.temperature = number<double>(option, value(), 0, 100);
    else if (option == "--seed")
      a.seed = number<std::uint64_t>(option, value(), 0, UINT64_MAX);
    else if (option == "--save")
      a.save = value();
    else if (option == "--restore")
      a.restore = value();
    else if (option == "--weights")
      a.weights = value();
    else if (option == "--text")
      a.text = value();
    else if (option == "--no-check")
      a.check = false;
    else if (option == "--help" || option == "-h")
      a.help = true;
    else
      throw usage_error("unknown option '" + std::string(option) + "'");
  });
  if (!a.prompt) a.prompt = a.restore.empty() ? "   :slot: n.\n\n   " : "";
  return a;
}

session begin(const decoder& model, const arguments& a) {
  session text(model, a.seed);
  if (!a.restore.empty()) {
    std::ifstream file(a.restore, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + a.restore.string());
    text.restore(file);
  }
  text.read(*a.prompt);
  return text;
}

/// The same bytes again, by two sessions: the first is stored half-way, the second restored from that.
bool goes_on_after_restore(const decoder& model, const arguments& a, std::string_view written) {
  session first = begin(model, a), second(model, 0);
  std::stringstream stored;
  for (index_t i = 0; i < std::ssize(written); ++i) {
    if (i == std::ssize(written) / 2) {
      first.save(stored);
      second.restore(stored);
    }
    session& text = i < std::ssize(written) / 2 ? first : second;
    if (text.write(a.temperature) != written[static_cast<std::size_t>(i)]) return false;
  }
  return true;
}

/// Reads the held-out text and says how well it was predicted, and how fast.
template <class Read>
matrix measure(const char* how, const std::string& text, const Read& read) {
  const auto start = std::chrono::steady_clock::now();
  matrix logits = read();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  std::printf("%s %.4f bits a byte, %.0f bytes/s\n", how, bits_per_byte(logits, text),
              static_cast<double>(logits.rows()) / time.count());
  return logits;
}

/// Returns what is wrong, or an empty text.
std::string run(const arguments& a) {
  const decoder model(read_weights(a.weights));
  session text = begin(model, a);
  std::string written;
  std::printf("%s|", a.prompt->c_str());
  for (index_t i = 0; i < a.bytes; ++i) {
    written += text.write(a.temperature);
    std::putchar(written.back());
    std::fflush(stdout);
  }
  std::printf("\n\nstate      %lld bytes, however long the text\n", static_cast<long long>(text.state_bytes()));
  if (!a.save.empty()) {
    std::ofstream file(a.save, std::ios::binary);
    text.save(file);
  }
  if (!a.check) return {};

  if (!goes_on_after_restore(model, a, written)) return "a session goes on differently after it was restored";
  std::printf("restored   half-way, and all bytes were the same\n");

  const std::string held_out = read_text(a.text);
  if (held_out.size() < 2) throw std::runtime_error(a.text.string() + " has nothing to predict");
  std::printf("held out   %zu bytes\n", held_out.size());
  const matrix chunked = measure("in chunks ", held_out, [&] { return read_in_chunks(model, held_out); });
  const matrix stepped = measure("in steps  ", held_out, [&] { return read_in_steps(model, held_out); });
  const float difference = (chunked - stepped).cwiseAbs().maxCoeff();
  std::printf("agreement  logits differ by at most %.1e\n", difference);
  // Both round differently, and states carry that on; a logit that is wrong is wrong by far more. NaN counts.
  return difference <= 1e-2f ? "" : "chunks and steps say different things";
}

}  // namespace

int main(int count, char** given) {
  // Products of this size are not worth dividing: threads would wait for each other.
  Eigen::setNbThreads(1);
  try {
    const arguments a = read_arguments(count, given);
    if (a.help) {
      std::fputs(usage, stdout);
      return 0;
    }
    const std::string problem = run(a);
    if (problem.empty()) return 0;
    std::fprintf(stderr, "slot_lm: %s\n", problem.c_str());
    return 1;
  } catch (const usage_error& error) {
    std::fprintf(stderr, "slot_lm: %s; see slot_lm --help\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "slot_lm: %s\n", error.what());
    return 1;
  }
}
