/// Where the sequences of a packed batch begin and end.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

HEED_BEGIN

/// Non-owning list of integers, 32 or 64 bit. Made from anything contiguous with data() and size(), or a rank-1 view.
class integer_list {
 public:
  HEED_INLINE constexpr integer_list() noexcept = default;

  HEED_INLINE constexpr integer_list(const std::int32_t* data, index_t count) noexcept : narrow_(data), count_(count) {}
  HEED_INLINE constexpr integer_list(const std::int64_t* data, index_t count) noexcept : wide_(data), count_(count) {}

  template <class I>
    requires std::same_as<std::remove_const_t<I>, std::int32_t> || std::same_as<std::remove_const_t<I>, std::int64_t>
  HEED_INLINE constexpr integer_list(const view<I, 1>& offsets) noexcept
      : integer_list(offsets.data(), offsets.extent(0)) {}

  template <class C>
    requires requires(const C& c) {
      { *c.data() } -> std::convertible_to<std::int64_t>;
      { c.size() } -> std::convertible_to<index_t>;
    }
  HEED_INLINE constexpr integer_list(const C& container) noexcept
      : integer_list(container.data(), static_cast<index_t>(container.size())) {}

  HEED_INLINE constexpr explicit operator bool() const noexcept { return narrow_ != nullptr || wide_ != nullptr; }
  HEED_INLINE constexpr index_t size() const noexcept { return count_; }
  HEED_INLINE constexpr index_t at(index_t i) const noexcept { return narrow_ != nullptr ? narrow_[i] : wide_[i]; }

 private:
  const std::int32_t* narrow_ = nullptr;
  const std::int64_t* wide_ = nullptr;
  index_t count_ = 0;
};

/// S + 1 row offsets: sequence s owns rows [at(s), at(s + 1)). `{}`: not packed.
using sequence_offsets = integer_list;

/// Rows that count, of each sequence. `{}`: all.
using sequence_lengths = integer_list;

HEED_END
