/// Characters as tokens.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace generate {

using token = std::int32_t;
using token_ids = std::vector<token>;

/// Token i stands for character i. The first one begins every text, and ends it where a model says so. Capitals follow
/// the other characters, in the order of their letters.
inline constexpr std::string_view characters = "^abcdefghijklmnopqrstuvwxyz ,.?!ABCDEFGHIJKLMNOPQRSTUVWXYZ";
inline constexpr token vocabulary = static_cast<token>(characters.size());
inline constexpr token boundary = 0, letters = 26;
/// Characters that differ by more than their case.
inline constexpr token kinds = vocabulary - letters;

constexpr token token_of(char c) {
  const std::size_t at = characters.find(c);
  return at == std::string_view::npos ? -1 : static_cast<token>(at);
}
constexpr token kind_of(token t) { return t < kinds ? t : t - kinds + 1; }
constexpr token capital_of(token letter) { return letter + kinds - 1; }

/// The boundary, then the characters.
inline token_ids encode(std::string_view text) {
  token_ids tokens{boundary};
  for (const char c : text) {
    if (token_of(c) <= boundary)
      throw std::invalid_argument("'" + std::string(1, c) + "' is none of the characters that the model knows: " +
                                  std::string(characters.substr(1)));
    tokens.push_back(token_of(c));
  }
  return tokens;
}

inline std::string decode(const token_ids& tokens) {
  std::string text;
  for (const token t : tokens)
    if (t != boundary) text += characters[static_cast<std::size_t>(t)];
  return text;
}

}  // namespace generate
