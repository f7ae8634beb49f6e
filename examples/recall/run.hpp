/// One training: a mixer, a seed, and how recall grew.
#pragma once

#include <chrono>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "model.hpp"

namespace recall {

struct settings {
  index_t pairs = 64;
  index_t slots = 72, features = 4;  // of GSA
  index_t steps = 3000, report_every = 250;
  index_t tokens = 3072;                                                 // in a batch
  index_t tests = 64;                                                    // sequences that recall is measured on
  double rate = 0.02;                                                    // the highest
  heed::feature_map features_of_keys = heed::feature_map::elu_plus_one;  // of linear attention
  vocabulary words{};
};

/// Linear attention and GLA get the smallest square matrix that is no smaller than GSA's state, softmax attention the
/// heads of GSA. No mixer has a convolution of its own, there is one before it. Where a softmax reads, queries and keys
/// are normed: heads of few features then learn to point exactly.
inline training::mixer_shape shape_of(std::string_view mixer, const settings& s) {
  training::mixer_shape shape{.width = 64,
                              .features = s.features,
                              .value_features = s.features,
                              .slots = s.slots,
                              .taps = 1,
                              .norm_keys = mixer == "softmax" || mixer == "gsa",
                              .features_of_keys = s.features_of_keys,
                              .gate_damping = 1,
                              .gate_gain = 4};
  if (mixer == "linear" || mixer == "gla") {
    shape.features = 1;
    while (shape.features * shape.features < 2 * s.slots * s.features) ++shape.features;
    shape.value_features = shape.features;
  }
  return shape;
}

struct progress {
  index_t state = 0, step = 0, pairs = 0;
  double loss = 0, accuracy = 0;  // of the batch
  double recall = 0;              // on sequences with all pairs that are never trained on
};

struct result {
  index_t state = 0, parameters = 0;
  double seconds = 0;
  double recall = 0;
};

/// Calls report(progress) now and then. The number of pairs grows from 2 to all over the first 60 % of the steps: with
/// few pairs the right pair is found soon, and what was learned carries over.
template <class Report>
result train(const std::string& mixer, unsigned seed, const settings& s, const Report& report) {
  const auto start = std::chrono::steady_clock::now();
  model<float> learner(mixer, {.longest = 3 * s.pairs, .words = s.words, .mixer = shape_of(mixer, s)}, seed);
  std::mt19937 random(seed), test_random(~seed);
  const examples test = draw(s.words, s.pairs, s.pairs, s.tests, test_random);
  result r{learner.state_size(3 * s.pairs), learner.weights().size()};
  for (index_t step = 1; step <= s.steps; ++step) {
    const index_t pairs = std::min(s.pairs, 2 + (s.pairs - 2) * step * 5 / (s.steps * 3));
    const examples batch = draw(s.words, pairs, s.pairs, std::max<index_t>(1, s.tokens / (3 * pairs)), random);
    const auto score = learner.answer(batch, true);
    learner.weights().step({.rate = training::cosine_rate(step - 1, s.steps, s.steps / 10, s.rate)});
    if (step % s.report_every == 0 || step == s.steps) {
      r.recall = learner.answer(test, false).accuracy();
      report(progress{r.state, step, pairs, score.loss, score.accuracy(), r.recall});
    }
  }
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return r;
}

}  // namespace recall
