/// Which rank holds which tokens of a sequence that is spread over several.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

#include <cstdint>

HEED_BEGIN

/// N tokens dealt out to P ranks: token(rank, row) is the number of the token in a row of a rank's tensors, ascending by
/// rows. Made by contiguous_layout, striped_layout, zigzag_layout and listed_layout; `{}` is "not given".
///
///     N = 8, P = 2      rank 0     rank 1
///     contiguous        0 1 2 3    4 5 6 7      causal order leaves the first ranks with little to do
///     striped           0 2 4 6    1 3 5 7      all have as much, a triangle in every step
///     zigzag            0 1 6 7    2 3 4 5      all have as much, rectangles in all steps but the first
///
/// Every rank knows the whole of it. Lists and cuts are views, which must outlive the layout.
class token_layout {
 public:
  enum class rule { none, contiguous, cut, striped, zigzag, listed };

  HEED_INLINE constexpr token_layout() noexcept = default;
  /// For the makers below, which check what they are given.
  HEED_INLINE constexpr token_layout(rule how, index_t tokens, int ranks, integer_list starts = {},
                                     integer_list tokens_of = {}) noexcept
      : rule_(how), ranks_(ranks), tokens_(tokens), starts_(starts), list_(tokens_of) {}

  HEED_INLINE constexpr explicit operator bool() const noexcept { return rule_ != rule::none; }
  HEED_INLINE constexpr rule how() const noexcept { return rule_; }
  HEED_INLINE constexpr int ranks() const noexcept { return ranks_; }
  /// Of all ranks.
  HEED_INLINE constexpr index_t tokens() const noexcept { return tokens_; }

  /// Tokens of one rank; may be 0.
  HEED_INLINE constexpr index_t count(int rank) const noexcept {
    if (rule_ == rule::striped) return rank < tokens_ ? (tokens_ - rank - 1) / ranks_ + 1 : 0;
    index_t sum = 0;
    for (int i = 0; i < pieces(); ++i) sum += piece_end(rank, i) - piece_begin(rank, i);
    return sum;
  }

  HEED_INLINE constexpr index_t token(int rank, index_t row) const noexcept {
    if (rule_ == rule::striped) return rank + row * ranks_;
    if (rule_ == rule::listed) return list_.at(starts_.at(rank) + row);
    const index_t first = piece_end(rank, 0) - piece_begin(rank, 0);
    return row < first ? piece_begin(rank, 0) + row : piece_begin(rank, 1) + (row - first);
  }

  /// Some pieces of a rank's rows, of which each stands for a range of tokens: two of a zigzag, else one.
  HEED_INLINE constexpr int pieces() const noexcept { return rule_ == rule::zigzag ? 2 : 1; }
  /// Rows of a piece; of layouts that have a rule for them, the tokens too.
  HEED_INLINE constexpr index_t piece_rows(int rank, int piece) const noexcept {
    return rule_ == rule::zigzag ? piece_end(rank, piece) - piece_begin(rank, piece) : count(rank);
  }

 private:
  /// Tokens, or of a list the places in it.
  HEED_INLINE constexpr index_t piece_begin(int rank, int piece) const noexcept { return cut(rank, piece, 0); }
  HEED_INLINE constexpr index_t piece_end(int rank, int piece) const noexcept { return cut(rank, piece, 1); }
  HEED_INLINE constexpr index_t cut(int rank, int piece, int end) const noexcept {
    if (rule_ == rule::contiguous) return (rank + end) * tokens_ / ranks_;
    if (rule_ == rule::zigzag) return ((piece == 0 ? rank : 2 * ranks_ - 1 - rank) + end) * tokens_ / (2 * ranks_);
    return starts_.at(rank + end);
  }

  rule rule_ = rule::none;
  int ranks_ = 0;
  index_t tokens_ = 0;
  integer_list starts_;  // [P + 1]
  integer_list list_;    // [N]
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

inline void check_layout(const checker& check, index_t tokens, index_t ranks) {
  check.require(tokens >= 0 && tokens < (index_t(1) << 30), "tokens", "0 to 2^30 - 1", tokens);
  check.require(ranks >= 1 && ranks <= (1 << 20), "ranks", "1 to 2^20", ranks);
}

inline void check_starts(const checker& check, const integer_list& starts, const char* name) {
  check.require(starts.size() >= 2, name, "one number more than ranks, at least 2", starts.size());
  check.require(starts.at(0) == 0, name, "numbers that start at 0", starts.at(0));
  for (index_t r = 1; r < starts.size(); ++r)
    check.require(starts.at(r) >= starts.at(r - 1), name, "numbers that do not decrease", starts.at(r));
  check_layout(check, starts.at(starts.size() - 1), starts.size() - 1);
}

}  // namespace detail

/// Rank R holds tokens floor(R N / P) .. floor((R + 1) N / P) - 1. Throws heed::invalid_argument: tokens outside
/// [0, 2^30), no ranks.
inline token_layout contiguous_layout(index_t tokens, int ranks) {
  detail::check_layout(detail::checker("contiguous_layout"), tokens, ranks);
  return {token_layout::rule::contiguous, tokens, ranks};
}

/// Rank R holds tokens cuts[R] .. cuts[R + 1] - 1. cuts: P + 1 numbers, the first 0, that do not decrease; a view.
/// Throws heed::invalid_argument: other cuts.
inline token_layout contiguous_layout(integer_list cuts) {
  detail::check_starts(detail::checker("contiguous_layout"), cuts, "cuts");
  return {token_layout::rule::cut, cuts.at(cuts.size() - 1), static_cast<int>(cuts.size() - 1), cuts};
}

/// Rank R holds tokens R, R + P, R + 2 P, ...: Striped Attention (Brandon et al., 2023). Throws as contiguous_layout.
inline token_layout striped_layout(index_t tokens, int ranks) {
  detail::check_layout(detail::checker("striped_layout"), tokens, ranks);
  return {token_layout::rule::striped, tokens, ranks};
}

/// Of 2 P parts, part t from floor(t N / 2 P) on, rank R holds parts R and 2 P - 1 - R. Throws as contiguous_layout.
inline token_layout zigzag_layout(index_t tokens, int ranks) {
  detail::check_layout(detail::checker("zigzag_layout"), tokens, ranks);
  return {token_layout::rule::zigzag, tokens, ranks};
}

/// Rank R holds tokens[starts[R]] .. tokens[starts[R + 1] - 1], which ascend. Packed documents, for one. Both are views.
/// Throws heed::invalid_argument: starts as cuts of contiguous_layout; tokens that are not 0 .. N - 1, each once, or do
/// not ascend within a rank. Allocates N bytes to find out.
inline token_layout listed_layout(integer_list starts, integer_list tokens) {
  const detail::checker check("listed_layout");
  detail::check_starts(check, starts, "starts");
  const index_t count = starts.at(starts.size() - 1);
  check.require(tokens.size() == count, "tokens", "as many as the last of starts", tokens.size());
  tensor<std::uint8_t, 1> met({count});
  for (index_t r = 0; r + 1 < starts.size(); ++r)
    for (index_t i = starts.at(r); i < starts.at(r + 1); ++i) {
      const index_t t = tokens.at(i);
      check.require(t >= 0 && t < count, "tokens", "numbers below N", t);
      check.require(met(t) == 0, "tokens", "every token once", t);
      check.require(i == starts.at(r) || t > tokens.at(i - 1), "tokens", "ascending numbers within a rank", t);
      met(t) = 1;
    }
  return {token_layout::rule::listed, count, static_cast<int>(starts.size() - 1), starts, tokens};
}

HEED_ARCH_END
