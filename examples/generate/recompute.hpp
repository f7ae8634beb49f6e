/// The same texts again without caches: whole, each in one call a layer.
#pragma once

#include <algorithm>
#include <heed/softmax.hpp>

#include "server.hpp"

namespace generate {

struct agreement {
  index_t tokens = 0, same = 0;  // chosen, and chosen again
  float largest_difference = 0;  // of the logits

  /// The weights are such that what rounding to a cache's rows costs is far below this, and a wrong row far above.
  bool good() const { return same == tokens && largest_difference <= 1e-2f; }
};

/// Reads what a text became in one go, and compares every logit that the server chose by.
inline void recompute(const decoder& model, const completion& text, agreement& result) {
  const token_ids read(text.tokens.begin(), text.tokens.end() - 1);
  std::vector<std::int32_t> positions(read.size());
  for (std::size_t t = 0; t < read.size(); ++t) positions[t] = static_cast<std::int32_t>(t);
  const matrix x = model.hidden(
      read, positions, [&](std::size_t number, const matrix& q, const matrix& k, const matrix& v, matrix& out) {
        const layer& l = model.layers[number];
        heed::softmax_forward(heed::as_heads(q, l.heads), heed::as_heads(k, l.kv_heads), heed::as_heads(v, l.kv_heads),
                              heed::as_heads(out, l.heads), {}, heed::causal{}, heed::alibi{l.slopes});
      });
  const matrix logits = model.logits(x).bottomRows(text.logits.rows());
  const float difference = (logits - text.logits).cwiseAbs().maxCoeff();
  // NaN counts.
  if (!(difference <= result.largest_difference)) result.largest_difference = difference;
  for (index_t i = 0; i < logits.rows(); ++i) {
    index_t likeliest = 0;
    logits.row(i).maxCoeff(&likeliest);
    ++result.tokens;
    result.same += likeliest == text.tokens[text.prompt_length + i] ? 1 : 0;
  }
}

}  // namespace generate
