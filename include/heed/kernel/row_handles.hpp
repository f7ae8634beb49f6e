/// Where rows are: at one stride, by a list of numbers, or anywhere. rows[i] is a row, rows.from(i) those from it on.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>
#include <heed/simd/arch.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Rows at one stride.
template <class S>
struct strided_rows {
  S* data;
  index_t stride;

  HEED_INLINE S* operator[](index_t i) const noexcept { return data + i * stride; }
  HEED_INLINE strided_rows from(index_t i) const noexcept { return {data + i * stride, stride}; }
};

/// Rows of which a list says where each is.
template <class S>
struct listed_rows {
  S* data;
  index_t stride;
  const index_t* numbers;

  HEED_INLINE S* operator[](index_t i) const noexcept { return data + numbers[i] * stride; }
  HEED_INLINE listed_rows from(index_t i) const noexcept { return {data, stride, numbers + i}; }
};

/// Rows that may be anywhere.
template <class S>
struct pointed_rows {
  S* const* at;

  HEED_INLINE S* operator[](index_t i) const noexcept { return at[i]; }
  HEED_INLINE pointed_rows from(index_t i) const noexcept { return {at + i}; }
};

template <class Rows>
inline constexpr bool are_strided = false;
template <class S>
inline constexpr bool are_strided<strided_rows<S>> = true;

}  // namespace detail
HEED_ARCH_END
