/// How a cache stores its rows: as an element type, or as codes of 8 or 4 bits.
#pragma once

#include <heed/config.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/view.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

HEED_BEGIN

/// What coded rows have beside a scale s for each group of features. c is a code, x the number it stands for.
enum class code_offset {
  none,    ///< x = s (c - c0), c0 = 0 for 8 bits and 8 for 4 bits
  zero,    ///< x = s (c - z), a zero point z for each group, a whole number stored as float
  minimum  ///< x = s c + m, a float m for each group
};

/// Rows of codes -128..127, a byte each. An aggregate, as the other formats: the settings of one row.
struct int8_rows {
  using code = std::int8_t;
  /// Consecutive features that share a scale; the last group may be shorter. 0: the whole row.
  index_t group = 0;
  code_offset offset = code_offset::none;
};

/// Rows of codes 0..15, two to a byte: element 2t in the low half of byte t, element 2t + 1 in its high half.
struct int4_rows {
  using code = std::uint8_t;
  index_t group = 0;
  code_offset offset = code_offset::none;
};

/// Rows of codes 0..15 in blocks of 32, 16 bytes each: byte t of a block holds element t in its low half and element
/// t + 16 in its high half, as in ggml. A row that ends within a block has the whole block.
struct int4_half32_rows {
  using code = std::uint8_t;
  index_t group = 0;
  code_offset offset = code_offset::none;
};

/// The settings of rows that are stored as an element type: none.
struct plain_rows {};

template <class Rows>
concept coded_row_format =
    std::same_as<Rows, int8_rows> || std::same_as<Rows, int4_rows> || std::same_as<Rows, int4_half32_rows>;

/// What a cache takes as its `Rows`.
template <class Rows>
concept row_format = element<Rows> || coded_row_format<Rows>;

template <row_format Rows>
using row_settings = std::conditional_t<element<Rows>, plain_rows, Rows>;

/// Coded rows in memory, logical shape [..., rows, F].
template <class Code, int Rank = 4>
struct coded_view {
  using number = std::conditional_t<std::is_const_v<Code>, const float, float>;

  /// [..., rows, bytes]: F bytes for 8 bits, F / 2 rounded up for pairs, 16 for each started block of 32 for half32.
  view<Code, Rank> codes{};
  /// [..., rows, groups]
  view<number, Rank> scales{};
  /// [..., rows, groups]: zero points or minima, if the settings say so.
  view<number, Rank> offsets{};

  HEED_INLINE constexpr operator coded_view<const Code, Rank>() const noexcept
    requires(!std::is_const_v<Code>)
  {
    return {codes, scales, offsets};
  }
  HEED_INLINE constexpr auto operator[](index_t i) const noexcept
    requires(Rank > 1)
  {
    return coded_view<Code, Rank - 1>{codes[i], scales[i], offsets[i]};
  }
  HEED_INLINE constexpr coded_view swap_axes(int a, int b) const noexcept {
    return {codes.swap_axes(a, b), scales.swap_axes(a, b), offsets.swap_axes(a, b)};
  }
};

/// Memory of rows of a format: a view of elements, or a coded_view.
template <class Rows, int Rank = 4>
struct row_memory_of {
  using type = coded_view<typename Rows::code, Rank>;
  using const_type = coded_view<const typename Rows::code, Rank>;
};
template <element S, int Rank>
struct row_memory_of<S, Rank> {
  using type = view<S, Rank>;
  using const_type = view<const S, Rank>;
};
template <row_format Rows, int Rank = 4>
using row_memory = typename row_memory_of<Rows, Rank>::type;
template <row_format Rows, int Rank = 4>
using const_row_memory = typename row_memory_of<Rows, Rank>::const_type;

/// Rows handed to the `append` of a cache, of rank 4 or 3: views or tensors of float, or rows as the cache stores them
/// (views or tensors of its element type; a coded_view). Made from either by itself.
template <row_format Rows, int Rank>
struct new_rows {
  /// What was given, according to `as_numbers`.
  view<const float, Rank> numbers{};
  const_row_memory<Rows, Rank> stored{};
  bool as_numbers = true;

  HEED_INLINE constexpr new_rows() noexcept = default;

  template <class C>
    requires(view_of_t<C>::rank == Rank && std::same_as<typename view_of_t<C>::value_type, float>)
  HEED_INLINE constexpr new_rows(C&& rows) noexcept : numbers(view_traits<std::remove_reference_t<C>>::make(rows)) {}

  template <class C>
    requires(view_of_t<C>::rank == Rank && element<Rows> && !std::same_as<Rows, float> &&
             std::same_as<typename view_of_t<C>::value_type, Rows>)
  HEED_INLINE constexpr new_rows(C&& rows) noexcept
      : stored(view_traits<std::remove_reference_t<C>>::make(rows)), as_numbers(false) {}

  template <class Code>
    requires(coded_row_format<Rows> && std::same_as<coded_view<const Code, Rank>, const_row_memory<Rows, Rank>>)
  HEED_INLINE constexpr new_rows(const coded_view<Code, Rank>& rows) noexcept : stored(rows), as_numbers(false) {}

  /// Entry b of the first axis.
  HEED_INLINE constexpr new_rows<Rows, Rank - 1> operator[](index_t b) const noexcept
    requires(Rank > 1)
  {
    new_rows<Rows, Rank - 1> rest;
    if (as_numbers)
      rest.numbers = numbers[b];
    else
      rest.stored = stored[b];
    rest.as_numbers = as_numbers;
    return rest;
  }
};

HEED_END
