/// Multi-query associative recall: pairs of a key and a value, then the keys in another order. At each of them the
/// model has to say the value.
/// Arora et al., Zoology: Measuring and Improving Recall in Efficient Language Models, 2023.
///
///     k7 v3 k2 v9 k5 v3 | k2 k7 k5        answers v9 v3 v3
#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "layers.hpp"

namespace recall {

using training::index_t;
using training::token;
using training::token_ids;

/// Tokens 0 .. keys - 1 are keys, the next ones values.
struct vocabulary {
  index_t keys = 1024, values = 256;
  index_t size() const { return keys + values; }
};

/// Sequences of equal length, one after the other.
struct examples {
  index_t count = 0;
  token_ids tokens;                // [count * length]
  token_ids places;                // of the tokens in a sequence with all pairs that there may be
  std::vector<index_t> questions;  // places in `tokens` that ask
  token_ids answers;               // for each question the number of its value, 0 .. values - 1
};

/// Sequences of `pairs` different keys with random values, 3 * pairs tokens each. Questions have the places that they
/// have after `most` pairs.
inline examples draw(const vocabulary& words, index_t pairs, index_t most, index_t count, std::mt19937& random) {
  examples drawn;
  drawn.count = count;
  token_ids keys(static_cast<std::size_t>(words.keys)), values(static_cast<std::size_t>(pairs)), order(values);
  std::iota(keys.begin(), keys.end(), 0);
  std::iota(order.begin(), order.end(), 0);
  std::uniform_int_distribution<token> value(0, static_cast<token>(words.values - 1));
  for (index_t i = 0; i < count; ++i) {
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t pair = 0; pair < values.size(); ++pair) {
      std::swap(keys[pair], keys[std::uniform_int_distribution<std::size_t>(pair, keys.size() - 1)(random)]);
      values[pair] = value(random);
      drawn.tokens.push_back(keys[pair]);
      drawn.tokens.push_back(static_cast<token>(words.keys) + values[pair]);
    }
    for (index_t place = 0; place < 3 * pairs; ++place)
      drawn.places.push_back(static_cast<token>(place < 2 * pairs ? place : place + 2 * (most - pairs)));
    for (const token pair : order) {
      drawn.questions.push_back(std::ssize(drawn.tokens));
      drawn.tokens.push_back(keys[static_cast<std::size_t>(pair)]);
      drawn.answers.push_back(values[static_cast<std::size_t>(pair)]);
    }
  }
  return drawn;
}

}  // namespace recall
