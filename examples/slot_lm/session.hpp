/// A text that is being written: what the model keeps of it, and how its next byte is drawn.
#pragma once

#include <cstdint>
#include <istream>
#include <ostream>

#include "decoder.hpp"

namespace slot_lm {

/// Random numbers whose whole state is one number: splitmix64. Steele, Lea and Flood, Fast Splittable Pseudorandom
/// Number Generators, 2014.
class random_numbers {
 public:
  explicit random_numbers(std::uint64_t seed) : state_(seed) {}

  /// In [0, 1).
  double operator()() {
    state_ += 0x9e3779b97f4a7c15;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

  std::uint64_t state() const { return state_; }

 private:
  std::uint64_t state_;
};

/// Index i with probability softmax(logits / temperature)_i; the likeliest where the temperature is 0.
inline char draw(const row_vector& logits, double temperature, random_numbers& random) {
  index_t likeliest = 0;
  const float most = logits.maxCoeff(&likeliest);
  if (temperature == 0) return static_cast<char>(likeliest);
  const Eigen::ArrayXd weights = ((logits.array() - most).cast<double>() / temperature).exp();
  double left = random() * weights.sum();
  index_t i = 0;
  while (i + 1 < weights.size() && left >= weights[i]) left -= weights[i++];
  return static_cast<char>(i);
}

class session {
 public:
  session(const decoder& model, std::uint64_t seed) : model_(model), state_(model.new_state()), random_(seed) {}

  /// Goes on after `text`.
  void read(std::string_view text) {
    const std::string bytes = last_ + std::string(text);
    model_.read(std::string_view(bytes).substr(0, text.size()), state_);
    last_ = bytes.back();
  }

  /// Writes a byte. Memory and time do not depend on how many there were before.
  char write(double temperature) {
    last_ = draw(model_.step(last_, state_).row(0), temperature, random_);
    return last_;
  }

  /// The file: `session_mark`, random number, last byte, state as float; all little-endian.
  void save(std::ostream& out) const {
    const std::uint64_t random = random_.state();
    out.write(session_mark.data(), std::ssize(session_mark));
    out.write(reinterpret_cast<const char*>(&random), sizeof random);
    out.write(&last_, 1);
    out.write(reinterpret_cast<const char*>(state_.data()), state_bytes());
    if (!out.flush()) throw std::runtime_error("the session could not be saved");
  }

  void restore(std::istream& in) {
    std::string mark(session_mark.size(), '\0');
    std::uint64_t random = 0;
    in.read(mark.data(), std::ssize(mark));
    in.read(reinterpret_cast<char*>(&random), sizeof random);
    in.read(&last_, 1);
    in.read(reinterpret_cast<char*>(state_.data()), state_bytes());
    if (!in || mark != session_mark || in.peek() != std::istream::traits_type::eof())
      throw std::runtime_error("this is no session of the model");
    random_ = random_numbers(random);
  }

  index_t state_bytes() const { return state_.size() * static_cast<index_t>(sizeof(float)); }

 private:
  static constexpr std::string_view session_mark = "slot_se1";

  const decoder& model_;
  model_state state_;
  random_numbers random_;
  char last_ = '\n';  // what the state has not seen yet; every text begins after a new line
};

}  // namespace slot_lm
