/// The tables that masks and score mods read: views of memory that must outlive them.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// A view of a temporary container would dangle; a temporary view does not.
template <class C>
concept outlives_call = std::is_lvalue_reference_v<C> || std::is_trivially_copyable_v<C>;

/// A view or tensor of U.
template <class C, class U, int Rank>
concept table_of = outlives_call<C> && std::convertible_to<C, view<const U, Rank>>;

/// A contiguous container of U, such as std::vector or std::array.
template <class C, class U>
concept array_of = outlives_call<C> && !table_of<C, U, 1> && !table_of<C, U, 2> && requires(C& c) {
  { c.data() } -> std::convertible_to<const U*>;
  { c.size() } -> std::convertible_to<std::size_t>;
};

template <class C, class U>
concept row_of = table_of<C, U, 1> || array_of<C, U>;

/// One row of U, of whatever holds it.
template <class U, class C>
  requires row_of<C, U>
view<const U, 1> as_row(C&& c) noexcept {
  if constexpr (table_of<C, U, 1>)
    return c;
  else
    return {static_cast<const U*>(c.data()), {static_cast<index_t>(c.size())}};
}

/// Several rows of U; one row becomes one row of one.
template <class U, class C>
  requires(table_of<C, U, 2> || row_of<C, U>)
view<const U, 2> as_rows(C&& c) noexcept {
  if constexpr (table_of<C, U, 2>) {
    return c;
  } else {
    const view<const U, 1> row = as_row<U>(static_cast<C&&>(c));
    return {row.data(), {1, row.extent(0)}, {0, row.stride(0)}};
  }
}

/// The elements of a view, a tensor or a container.
template <class C>
using element_in_t = std::remove_cvref_t<decltype(*std::declval<C&>().data())>;

/// Row i; of a table with a single row that one; no elements at all where there is no such row.
template <class U>
HEED_INLINE view<const U, 1> shared_row(const view<const U, 2>& table, int i) noexcept {
  if (table.extent(0) == 1) return table[0];
  return i >= 0 && i < table.extent(0) ? table[i] : view<const U, 1>();
}

}  // namespace detail

/// Integers by position: [T] for all batch entries, or [B,T]. Made from a view or tensor of std::int32_t of rank 1 or
/// 2, or from a contiguous container such as std::vector<std::int32_t>. Copies nothing: the memory must outlive the
/// mask.
class position_table {
 public:
  position_table() noexcept = default;

  template <class C>
    requires(!std::same_as<std::remove_cvref_t<C>, position_table> &&
             (detail::table_of<C, std::int32_t, 2> || detail::row_of<C, std::int32_t>))
  position_table(C&& table) noexcept : rows_(detail::as_rows<std::int32_t>(static_cast<C&&>(table))) {}

  /// The integers of batch entry b; no integers at all for an entry that the table does not have.
  HEED_INLINE view<const std::int32_t, 1> row(int b) const noexcept { return detail::shared_row(rows_, b); }

  index_t rows() const noexcept { return rows_.extent(0); }
  index_t length() const noexcept { return rows_.extent(1); }

 private:
  view<const std::int32_t, 2> rows_;
};

/// An integer that is the same for all batch entries, or one for each: `n`, or a table [B] as in position_table.
class batch_number {
 public:
  batch_number(int constant) noexcept : constant_(constant) {}

  template <class C>
    requires(!std::same_as<std::remove_cvref_t<C>, batch_number> && detail::row_of<C, std::int32_t>)
  batch_number(C&& table) noexcept : each_(detail::as_row<std::int32_t>(static_cast<C&&>(table))), is_table_(true) {}

  /// For an entry that the table does not have: 0.
  HEED_INLINE int operator()(int b) const noexcept {
    if (!is_table_) return constant_;
    return b >= 0 && b < each_.extent(0) ? each_[b] : 0;
  }

  /// The smallest of the numbers (0 of an empty table), for checks.
  int smallest() const noexcept {
    if (!is_table_) return constant_;
    int least = each_.extent(0) > 0 ? each_[0] : 0;
    for (index_t b = 1; b < each_.extent(0); ++b) least = each_[b] < least ? each_[b] : least;
    return least;
  }

 private:
  view<const std::int32_t, 1> each_;
  int constant_ = 0;
  bool is_table_ = false;
};

HEED_ARCH_END
