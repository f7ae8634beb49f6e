/// Multi-query associative recall: pairs of a key and a value, then the keys in another order. At each of them the model
/// has to say the value. Arora et al., Zoology: Measuring and Improving Recall in Efficient Language Models, 2023.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "layers.hpp"

namespace recall {

using training::index_t;
using training::token;
using training::token_ids;

/// Tokens 0 .. keys - 1 are keys, the next ones values.
struct task {
  index_t pairs = 16;
  index_t keys = 64, values = 64;

  index_t writes = 1;

  index_t stream = 0;
  index_t length() const { return stream ? 2 * stream : (2 * writes + 1) * pairs; }
  index_t vocabulary() const { return keys + values; }
};

/// `count` sequences, one after the other.
struct examples {
  token_ids tokens;                // [count * length]
  std::vector<index_t> questions;  // rows of `tokens` that ask
  token_ids answers;               // a value for each
};

inline examples draw(const task& task, index_t count, std::mt19937& random) {
  examples drawn;
  token_ids keys(static_cast<std::size_t>(task.keys)), values(static_cast<std::size_t>(task.pairs)), order(values);
  token_ids plan(static_cast<std::size_t>(task.pairs * task.writes));
  std::iota(keys.begin(), keys.end(), 0);
  std::iota(order.begin(), order.end(), 0);
  std::uniform_int_distribution<token> value(static_cast<token>(task.keys), static_cast<token>(task.vocabulary() - 1));
  if (task.stream) {
    std::uniform_int_distribution<token> key(0, static_cast<token>(task.keys - 1));
    for (index_t i = 0; i < count; ++i) {
      token_ids last(static_cast<std::size_t>(task.keys), -1);
      for (index_t n = 0; n < task.stream; ++n) {
        const token k = key(random), v = value(random);
        auto& l = last[static_cast<std::size_t>(k)];
        if (l >= 0) { drawn.questions.push_back(std::ssize(drawn.tokens)); drawn.answers.push_back(l); }
        l = v;
        drawn.tokens.push_back(k);
        drawn.tokens.push_back(v);
      }
    }
    return drawn;
  }
  for (index_t i = 0; i < count; ++i) {
    std::shuffle(keys.begin(), keys.end(), random);
    std::shuffle(order.begin(), order.end(), random);
    for (auto& at : plan) at = 0;
    for (std::size_t n = 0; n < plan.size(); ++n) plan[n] = static_cast<token>(n % values.size());
    std::shuffle(plan.begin(), plan.end(), random);
    for (const token p : plan) {
      const auto pair = static_cast<std::size_t>(p);
      values[pair] = value(random);
      drawn.tokens.push_back(keys[pair]);
      drawn.tokens.push_back(values[pair]);
    }
    for (const token pair : order) {
      drawn.questions.push_back(std::ssize(drawn.tokens));
      drawn.tokens.push_back(keys[static_cast<std::size_t>(pair)]);
      drawn.answers.push_back(values[static_cast<std::size_t>(pair)]);
    }
  }
  return drawn;
}

}  // namespace recall
