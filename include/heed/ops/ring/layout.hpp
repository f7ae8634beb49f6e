/// Between tensors of a whole sequence and the shards that ranks hold of them.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/token_layout.hpp>
#include <heed/core/view.hpp>

#include <algorithm>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

/// Axis 2 of [B,H,N,D] and [B,H,N], else the last one: [N], [B,N].
template <int Rank>
inline constexpr int token_axis = Rank >= 3 ? 2 : Rank - 1;

template <class T, int Rank, class U>
void check_shard(const checker& check, const view<T, Rank>& whole, const view<U, Rank>& shard,
                 const token_layout& layout, int rank) {
  check.require(static_cast<bool>(layout), "layout", "a layout", "none");
  check.require(rank >= 0 && rank < layout.ranks(), "rank", text("a rank below %d", layout.ranks()).c_str(), rank);
  for (int axis = 0; axis < Rank; ++axis) {
    if (axis == token_axis<Rank>) continue;
    check.extent(shard, "shard", axis, whole.extent(axis), "as the whole");
  }
  check.extent(whole, "whole", token_axis<Rank>, layout.tokens(), "N, the tokens of the layout");
  check.extent(shard, "shard", token_axis<Rank>, layout.count(rank), "the tokens of this rank");
}

/// An output of any strides.
template <class T, int Rank>
void check_scattered(const checker& check, const view<T, Rank>& output, const char* name) {
  check.require(output.data() != nullptr || is_empty(output), name, "data", "a null pointer");
  check.require(distinct_elements(output), name, "an output whose elements are distinct",
                "strides that make them overlap");
}

/// to = from, of any strides.
template <class T, int Rank>
void copy_elements(const view<const T, Rank>& from, const view<T, Rank>& to) noexcept {
  for (index_t i = 0; i < to.extent(0); ++i) {
    if constexpr (Rank == 1)
      to[i] = from[i];
    else
      copy_elements<T, Rank - 1>(from[i], to[i]);
  }
}

/// Calls f(token of the whole, row of the shard), each as a view of one token.
template <class T, int Rank, class U, class F>
void for_each_token(const view<T, Rank>& whole, const view<U, Rank>& shard, const token_layout& layout, int rank,
                    const F& f) {
  constexpr int axis = token_axis<Rank>;
  for (index_t row = 0; row < shard.extent(axis); ++row) {
    const index_t token = layout.token(rank, row);
    f(whole.slice(axis, token, token + 1), shard.slice(axis, row, row + 1));
  }
}

}  // namespace detail

/// The rows of one rank, of a tensor of all tokens:   shard[.., a, ..] = whole[.., layout.token(rank, a), ..]
///
/// whole, shard   of one rank and element type, any that can be copied: [B,H,N,D] or [B,H,N], tokens on axis 2; [B,N] or
///                [N], tokens last. Any strides. shard, the output, has layout.count(rank) tokens; no overlap
///
/// Tokens, positions, labels and loss masks are dealt out once a model, not once a layer.
/// Cost: a copy. Throws heed::invalid_argument before any write: no layout, a rank beyond it, extents that do not fit,
/// overlap.
template <class Shard>
void to_layout(std::type_identity_t<view<const element_of_t<Shard>, view_of_t<Shard>::rank>> whole, Shard&& shard,
               const token_layout& layout, int rank) {
  using T = element_of_t<Shard>;
  const auto to = view_traits<std::remove_reference_t<Shard>>::make(shard);
  const detail::checker check("to_layout");
  detail::check_shard(check, whole, to, layout, rank);
  detail::check_scattered(check, to, "shard");
  check.no_overlap(to, "shard", whole, "whole");
  detail::for_each_token(whole, to, layout, rank, [](const auto& token, const auto& row) {
    detail::copy_elements<T, view_of_t<Shard>::rank>(token, row);
  });
}

/// The other way:   whole[.., layout.token(rank, a), ..] = shard[.., a, ..]; other tokens are left as they are.
/// Called for every rank it puts the whole together.
template <class Whole>
void from_layout(std::type_identity_t<view<const element_of_t<Whole>, view_of_t<Whole>::rank>> shard, Whole&& whole,
                 const token_layout& layout, int rank) {
  using T = element_of_t<Whole>;
  const auto to = view_traits<std::remove_reference_t<Whole>>::make(whole);
  const detail::checker check("from_layout");
  detail::check_shard(check, to, shard, layout, rank);
  detail::check_scattered(check, to, "whole");
  check.no_overlap(to, "whole", shard, "shard");
  detail::for_each_token(to, shard, layout, rank, [](const auto& token, const auto& row) {
    detail::copy_elements<T, view_of_t<Whole>::rank>(row, token);
  });
}

HEED_ARCH_END
