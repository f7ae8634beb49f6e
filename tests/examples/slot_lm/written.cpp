// The language model of examples/slot_lm: its training against its use, its states, and its trained weights.
#include "support/catch.hpp"

#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>

#include "held_out.hpp"
#include "session.hpp"
#include "trainer.hpp"

namespace {

using namespace slot_lm;
using Catch::Approx;

constexpr model_shape small{.layers = 2, .width = 12, .heads = 2, .features = 5, .slots = 6, .inner = 8, .taps = 3};
const std::string song = "row, row, row your boat gently down the stream. merrily, merrily, merrily, merrily. ";

/// A file that is gone in the end.
struct temporary_file {
  ~temporary_file() { std::filesystem::remove(path); }
  std::filesystem::path path = std::filesystem::temp_directory_path() / "heed_slot_lm_test.bin";
};

const decoder& trained() {
  static const decoder model(read_weights(SLOT_LM_DIR "/weights.bin"));
  return model;
}

std::string write(session& text, int bytes) {
  std::string written;
  for (int i = 0; i < bytes; ++i) written += text.write(0.7);
  return written;
}

}  // namespace

TEST_CASE("slot_lm: the model is the same while it is trained and while it is used") {
  training::parameters<float> weights(3);
  trainable_model<float> trainable(weights, small);
  const table<float> wanted = trainable.forward(tokens_of(song), 1).topRows(std::ssize(song) - 1);
  const decoder model({small, {weights.values().begin(), weights.values().end()}});
  CHECK((read_in_chunks(model, song, 7) - wanted).cwiseAbs().maxCoeff() <= 1e-4f);
  CHECK((read_in_steps(model, song) - wanted).cwiseAbs().maxCoeff() <= 1e-4f);
}

TEST_CASE("slot_lm: training learns a text, and files keep what it learnt") {
  const std::string text = song + song + song;
  trainer training(small, {.steps = 60, .batch = 2, .length = 40, .rate = 2e-2});
  const double before = training.step(text);
  double after = 0;
  while (training.steps_done() < 60) after = training.step(text);
  CHECK(before > 7);
  CHECK(after < 2.5);

  const temporary_file file;
  write_weights(file.path, small, training.weights());
  const decoder kept(read_weights(file.path));
  const decoder exact({small, {training.weights().begin(), training.weights().end()}});
  CHECK(bits_per_byte(read_in_chunks(kept, text), text) ==
        Approx(bits_per_byte(read_in_chunks(exact, text), text)).epsilon(0.02));
}

TEST_CASE("slot_lm: files that hold no weights are refused") {
  CHECK_THROWS_AS(read_weights(SLOT_LM_DIR "/no_such_file"), std::runtime_error);
  CHECK_THROWS_AS(read_weights(SLOT_LM_DIR "/held_out.txt"), std::runtime_error);
  const temporary_file file;
  training::parameters<float> weights(3);
  trainable_model<float>(weights, small);
  write_weights(file.path, small, weights.values().subspan(1));
  CHECK_THROWS_AS(decoder(read_weights(file.path)), std::runtime_error);
}

TEST_CASE("slot_lm: a restored session goes on as the one that was stored") {
  session first(trained(), 5), second(trained(), 6);
  first.read("   :boat anchor: ");
  write(first, 20);
  std::stringstream stored;
  first.save(stored);
  const std::string file = stored.str();
  second.restore(stored);
  CHECK(write(second, 60) == write(first, 60));

  std::istringstream short_file(file.substr(0, file.size() - 1)), long_file(file + "x");
  CHECK_THROWS_AS(first.restore(short_file), std::runtime_error);
  CHECK_THROWS_AS(first.restore(long_file), std::runtime_error);
}

TEST_CASE("slot_lm: a prompt is read as bytes that are written are") {
  session whole(trained(), 5), parts(trained(), 5);
  whole.read(song + song);
  parts.read(song);
  parts.read(song);
  CHECK(write(parts, 30) == write(whole, 30));
}

TEST_CASE("slot_lm: bytes are drawn as their logits say") {
  row_vector logits = row_vector::Constant(4, -1e9f);
  logits[1] = std::log(3.0f);
  logits[2] = 0;
  random_numbers random(1);
  int ones = 0;
  for (int i = 0; i < 4000; ++i) {
    const char byte = draw(logits, 1, random);
    REQUIRE((byte == 1 || byte == 2));
    ones += byte == 1 ? 1 : 0;
  }
  CHECK(ones == Approx(3000).margin(150));
  CHECK(draw(logits, 0, random) == 1);
}

TEST_CASE("slot_lm: the trained weights predict a text that they were not trained on") {
  const std::string text = read_text(SLOT_LM_DIR "/held_out.txt").substr(0, 6000);
  const matrix chunked = read_in_chunks(trained(), text), stepped = read_in_steps(trained(), text);
  CHECK((chunked - stepped).cwiseAbs().maxCoeff() <= 1e-2f);
  CHECK(bits_per_byte(chunked, text) < 2.3);
}
