/// A sequence of random tokens with a few sentences hidden in it. Every token is a function of its number, so each rank
/// makes its own and none has ever seen them all.
#pragma once

#include <heed/core/tensor.hpp>
#include <heed/core/token_layout.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace long_context {

using heed::index_t;

inline constexpr index_t heads = 2, features = 64;

/// A head's value holds eight characters, a feature of -1 or 1 for each bit.
inline constexpr std::array<std::string_view, 8> needles = {"the key is brass", "seven grey geese", "rain before noon",
                                                            "a map of nowhere", "blue paper crane", "left at the mill",
                                                            "salt and pepper.", "nobody was there"};
inline constexpr index_t needle_count = static_cast<index_t>(needles.size());
static_assert(needles[0].size() == heads * features / 8);

/// Random bits that depend on their two arguments alone (splitmix64).
inline std::uint64_t bits_of(std::uint64_t what, std::uint64_t which) {
  std::uint64_t x = what * 0x9e3779b97f4a7c15u + which * 0xd1342543de82ef95u + 0x2545f4914f6cdd1du;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class haystack {
 public:
  /// The last tokens ask for the needles, which lie before them: the first one in the first half of the sequence, the
  /// next in the first half of what is left, and so on. So a window of a 64th of the sequence still finds some.
  explicit haystack(index_t tokens) : tokens_(tokens) {}

  index_t tokens() const { return tokens_; }
  index_t question(index_t needle) const { return tokens_ - needle_count + needle; }
  index_t place(index_t needle) const {
    const index_t left = (tokens_ - needle_count) >> needle, half = left - left / 2;
    return question(0) - left +
           static_cast<index_t>(bits_of(1, static_cast<std::uint64_t>(needle)) % static_cast<std::uint64_t>(half));
  }

  /// The rows of a rank. A question's query is the key of its needle, four times as long; others are random, and agree
  /// with no key.
  void deal(const heed::token_layout& layout, int rank, heed::view<float, 4> q, heed::view<float, 4> k,
            heed::view<float, 4> v) const {
    for (index_t row = 0; row < layout.count(rank); ++row) {
      const index_t token = layout.token(rank, row);
      index_t hidden = -1, asked = token - question(0);
      for (index_t n = 0; n < needle_count; ++n)
        if (place(n) == token) hidden = n;
      for (index_t h = 0; h < heads; ++h) {
        write(q[0][h][row], asked >= 0 ? bits_of(2 + h, place(asked)) : bits_of(12 + h, token), asked >= 0 ? 4 : 1);
        write(k[0][h][row], bits_of(2 + h, token), 1);
        write(v[0][h][row], hidden >= 0 ? text_bits(hidden, h) : bits_of(22 + h, token), 1);
      }
    }
  }

 private:
  static void write(heed::view<float, 1> row, std::uint64_t bits, float length) {
    for (index_t d = 0; d < features; ++d) row[d] = (bits >> d & 1) != 0 ? length : -length;
  }
  static std::uint64_t text_bits(index_t needle, index_t head) {
    std::uint64_t bits = 0;
    for (index_t c = 8; c-- > 0;)
      bits = bits << 8 | static_cast<unsigned char>(
                             needles[static_cast<std::size_t>(needle)][static_cast<std::size_t>(8 * head + c)]);
    return bits;
  }

  index_t tokens_;
};

/// The characters that a question's output stands for; `.` for those that are none.
inline std::string read_answer(heed::view<const double, 1> output) {
  std::string text;
  for (index_t c = 0; c < heads * features / 8; ++c) {
    int character = 0;
    for (int bit = 0; bit < 8; ++bit) character |= (output[8 * c + bit] > 0) << bit;
    text += character >= 32 && character < 127 ? static_cast<char>(character) : '.';
  }
  return text;
}

}  // namespace long_context
