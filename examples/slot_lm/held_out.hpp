/// How well the model predicts a text, read in chunks or byte by byte.
#pragma once

#include <numbers>

#include "decoder.hpp"

namespace slot_lm {

/// Logits of what follows each byte but the last, by gated_slot_forward, so many bytes a call.
inline matrix read_in_chunks(const decoder& model, std::string_view text, index_t bytes_a_call = 1024) {
  model_state state = model.new_state();
  matrix logits(std::ssize(text) - 1, vocabulary);
  for (index_t first = 0; first < logits.rows(); first += bytes_a_call) {
    const index_t count = std::min(bytes_a_call, logits.rows() - first);
    logits.middleRows(first, count) =
        model.read(text.substr(static_cast<std::size_t>(first), static_cast<std::size_t>(count)), state);
  }
  return logits;
}

/// The same by gated_slot_step.
inline matrix read_in_steps(const decoder& model, std::string_view text) {
  model_state state = model.new_state();
  matrix logits(std::ssize(text) - 1, vocabulary);
  for (index_t i = 0; i < logits.rows(); ++i) logits.row(i) = model.step(text[static_cast<std::size_t>(i)], state);
  return logits;
}

/// Mean of -log2 of the probabilities that the logits give to the bytes that did follow.
inline double bits_per_byte(const matrix& logits, std::string_view text) {
  double nats = 0;
  for (index_t i = 0; i < logits.rows(); ++i) {
    const Eigen::ArrayXd row = logits.row(i).array().cast<double>();
    const double most = row.maxCoeff();
    nats += std::log((row - most).exp().sum()) + most -
            row[static_cast<unsigned char>(text[static_cast<std::size_t>(i) + 1])];
  }
  return nats / static_cast<double>(logits.rows()) / std::numbers::ln2;
}

}  // namespace slot_lm
