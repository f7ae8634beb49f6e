/// A decoder whose weights are set by hand. It continues a text as the text itself went on before: the last characters
/// are looked up in what was written so far, and what followed the longest match comes next.
#pragma once

#include <cmath>

#include "decoder.hpp"

namespace generate {

/// Characters of context, and tokens that a text may have.
inline constexpr index_t reach = 8, longest_text = 256;

/// Where a token's row of `hidden` numbers holds what: one-hot codes of kinds, then the constant 1.
enum slot : index_t { self, before, next = before + reach, capital, one };
inline constexpr index_t hidden_size = one * kinds + 1;
constexpr index_t at(index_t slot, token kind = 0) { return slot * kinds + kind; }

/// Norms leave numbers as they are where the squares of a row sum up to this.
inline row_vector norm_of_rows_with(float squares) {
  return row_vector::Constant(hidden_size, std::sqrt(squares / static_cast<float>(hidden_size)));
}

/// Layer 0. Head n looks n + 1 tokens back and copies what stands there to slot before + n. All heads share one key, the
/// same for every token but for the turn by its position t. The query is that key turned back n + 1 positions, so that
///     score = sharpness sum_i cos((p - n - 1 - t) theta_i)
/// is largest at t = p - n - 1, by at least sharpness. Before the first token there are boundaries: the first token, a
/// boundary, is the nearest.
inline layer look_back() {
  constexpr index_t pairs = 32;
  constexpr float sharpness = 32;
  layer l{.heads = reach, .kv_heads = 1, .features = 2 * pairs, .value_features = kinds, .rotary = 2 * pairs};
  l.slopes.assign(reach, 0);
  l.attention_norm = norm_of_rows_with(2);  // one, self
  l.q = matrix::Zero(hidden_size, reach * l.features);
  l.k = matrix::Zero(hidden_size, l.features);
  l.v = matrix::Zero(hidden_size, kinds);
  l.o = matrix::Zero(reach * kinds, hidden_size);
  for (index_t i = 0; i < pairs; ++i) {
    l.k(at(one), i) = 1;
    for (index_t n = 0; n < reach; ++n) {
      const float angle = static_cast<float>(n + 1) * std::pow(10000.0f, -static_cast<float>(i) / pairs);
      const float factor = sharpness * std::sqrt(static_cast<float>(l.features));  // attention divides by the root
      l.q(at(one), n * l.features + i) = factor * std::cos(angle);
      l.q(at(one), n * l.features + pairs + i) = -factor * std::sin(angle);
    }
  }
  for (token kind = 0; kind < kinds; ++kind) {
    l.v(at(self, kind), kind) = 1;
    for (index_t n = 0; n < reach; ++n) l.o(n * kinds + kind, at(before + n, kind)) = 1;
  }

  // Nothing is left for an MLP to do.
  l.mlp_norm = norm_of_rows_with(2 + reach);
  l.gate = l.up = matrix::Zero(hidden_size, 0);
  l.down = matrix::Zero(0, hidden_size);
  return l;
}

/// Layer 1, an induction head. The query is what the last `reach` characters are, the key of t what stands before t:
///     score = level (128 [last equal] + 64 [second last equal] + ... + 1 [eighth last equal]) - distance
/// A level is more than any distance: the longest match wins, and of several the newest. The value of t, the character
/// itself, goes to slot `next`.
/// The MLP has a unit for each letter, which is on where that letter is next at the beginning of a sentence, and writes
/// slot `capital`.
inline layer continue_match() {
  constexpr float level = longest_text;
  layer l{.heads = 1, .kv_heads = 1, .features = reach * kinds, .value_features = kinds, .rotary = 0, .slopes = {1}};
  l.attention_norm = norm_of_rows_with(2 + reach);
  l.q = matrix::Zero(hidden_size, l.features);
  l.k = matrix::Zero(hidden_size, l.features);
  l.v = matrix::Zero(hidden_size, kinds);
  l.o = matrix::Zero(kinds, hidden_size);
  for (token kind = 0; kind < kinds; ++kind) {
    for (index_t n = 0; n < reach; ++n) {
      const float weight = level * static_cast<float>(1 << (reach - 1 - n));
      l.q(at(n == 0 ? index_t(self) : before + n - 1, kind), n * kinds + kind) =
          weight * std::sqrt(static_cast<float>(l.features));
      l.k(at(before + n, kind), n * kinds + kind) = 1;
    }
    l.v(at(self, kind), kind) = 1;
    l.o(kind, at(next, kind)) = 1;
  }

  constexpr float certainty = 32;
  l.mlp_norm = norm_of_rows_with(3 + reach);
  l.gate = l.up = matrix::Zero(hidden_size, letters);
  l.down = matrix::Zero(letters, hidden_size);
  for (token letter = 1; letter <= letters; ++letter) {
    const index_t unit = letter - 1;
    // Above zero if all three conditions hold.
    l.gate(at(self, token_of(' ')), unit) = certainty;
    for (const char c : {'.', '?', '!'}) l.gate(at(before, token_of(c)), unit) = certainty;
    l.gate(at(next, letter), unit) = certainty;
    l.gate(at(one), unit) = -2.25f * certainty;
    l.up(at(one), unit) = 1;
    l.down(unit, at(capital, letter)) = 2 / (0.75f * certainty);  // 2 in all, more than `next`
  }
  return l;
}

inline decoder copying_decoder() {
  decoder d;
  d.embedding = matrix::Zero(vocabulary, hidden_size);
  d.unembedding = matrix::Zero(hidden_size, vocabulary);
  for (token t = 0; t < vocabulary; ++t) {
    d.embedding(t, at(self, kind_of(t))) = 1;
    d.embedding(t, at(one)) = 1;
    d.unembedding(at(t < kinds ? index_t(next) : index_t(capital), kind_of(t)), t) = 1;
  }
  d.layers = {look_back(), continue_match()};
  d.norm = norm_of_rows_with(3 + reach);
  return d;
}

}  // namespace generate
