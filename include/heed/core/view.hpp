/// Non-owning strided views: how every operator receives its tensors.
#pragma once

#include <heed/config.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

HEED_BEGIN

using index_t = std::int64_t;

/// A tensor somebody else owns: pointer, extents and strides (in elements), in the logical order of the operator's
/// page.
///
/// Any outer stride is legal, negative and zero (broadcast) included where the operator allows it; the last axis of a
/// tensor that a kernel reads or writes must have stride 1. Copying a view copies no elements.
///
///     heed::view<float, 4> q(data, {B, H, N, D});                                  // dense, last axis fastest
///     heed::view<float, 4> q(data, {B, H, N, D}, {N * H * D, D, H * D, 1});        // stored as [B, N, H, D]
template <class T, int Rank>
class view {
  static_assert(Rank >= 1 && Rank <= 5, "heed::view: rank must be 1..5");

 public:
  using element_type = T;
  using value_type = std::remove_const_t<T>;
  static constexpr int rank = Rank;

  /// Empty: no data, all extents 0. Options use it for "not given".
  HEED_INLINE constexpr view() noexcept = default;

  HEED_INLINE constexpr view(T* data, const index_t (&extents)[Rank]) noexcept : data_(data) {
    index_t stride = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      extent_[axis] = extents[axis];
      stride_[axis] = stride;
      stride *= extents[axis];
    }
  }

  HEED_INLINE constexpr view(T* data, const index_t (&extents)[Rank], const index_t (&strides)[Rank]) noexcept
      : data_(data) {
    for (int axis = 0; axis < Rank; ++axis) {
      extent_[axis] = extents[axis];
      stride_[axis] = strides[axis];
    }
  }

  /// A view of mutable elements is a view of const elements.
  template <class U>
    requires(std::is_const_v<T> && std::is_same_v<U, std::remove_const_t<T>>)
  HEED_INLINE constexpr view(const view<U, Rank>& other) noexcept : data_(other.data()) {
    for (int axis = 0; axis < Rank; ++axis) {
      extent_[axis] = other.extent(axis);
      stride_[axis] = other.stride(axis);
    }
  }

  HEED_INLINE constexpr T* data() const noexcept { return data_; }
  HEED_INLINE constexpr index_t extent(int axis) const noexcept { return extent_[axis]; }
  HEED_INLINE constexpr index_t stride(int axis) const noexcept { return stride_[axis]; }
  HEED_INLINE constexpr explicit operator bool() const noexcept { return data_ != nullptr; }

  HEED_INLINE constexpr index_t size() const noexcept {
    index_t n = 1;
    for (int axis = 0; axis < Rank; ++axis) n *= extent_[axis];
    return n;
  }

  /// The element at one index per axis. Unchecked.
  template <class... Index>
    requires(sizeof...(Index) == Rank)
  HEED_INLINE constexpr T& operator()(Index... index) const noexcept {
    const index_t at[Rank] = {static_cast<index_t>(index)...};
    index_t offset = 0;
    for (int axis = 0; axis < Rank; ++axis) offset += at[axis] * stride_[axis];
    return data_[offset];
  }

  /// Rank 1: element i. Higher ranks: the view of entry i of the first axis.
  HEED_INLINE constexpr decltype(auto) operator[](index_t i) const noexcept {
    if constexpr (Rank == 1) {
      return static_cast<T&>(data_[i * stride_[0]]);
    } else {
      view<T, Rank - 1> rest;
      rest.data_ = data_ + i * stride_[0];
      for (int axis = 1; axis < Rank; ++axis) {
        rest.extent_[axis - 1] = extent_[axis];
        rest.stride_[axis - 1] = stride_[axis];
      }
      return rest;
    }
  }

  /// Entries [begin, end) of one axis.
  HEED_INLINE constexpr view slice(int axis, index_t begin, index_t end) const noexcept {
    view part = *this;
    part.data_ += begin * stride_[axis];
    part.extent_[axis] = end - begin;
    return part;
  }

  /// The same elements with two axes exchanged.
  HEED_INLINE constexpr view swap_axes(int a, int b) const noexcept {
    view other = *this;
    other.extent_[a] = extent_[b];
    other.extent_[b] = extent_[a];
    other.stride_[a] = stride_[b];
    other.stride_[b] = stride_[a];
    return other;
  }

  /// An axis of extent 1 read as if it had `extent` equal entries (stride 0).
  HEED_INLINE constexpr view broadcast(int axis, index_t extent) const noexcept {
    view other = *this;
    other.extent_[axis] = extent;
    other.stride_[axis] = 0;
    return other;
  }

 private:
  template <class, int>
  friend class view;

  T* data_ = nullptr;
  index_t extent_[Rank] = {};
  index_t stride_[Rank] = {};
};

/// How a container becomes a view: specialise `view_traits<C>` with `static view<T, Rank> make(C&)`. heed does so for
/// view itself and `tensor`, interop headers for their library's types.
template <class C>
struct view_traits;

template <class T, int Rank>
struct view_traits<view<T, Rank>> {
  using view_type = view<T, Rank>;
  HEED_INLINE static constexpr view_type make(const view<T, Rank>& v) noexcept { return v; }
};

/// A view that is const itself still writes to its elements.
template <class T, int Rank>
struct view_traits<const view<T, Rank>> : view_traits<view<T, Rank>> {};

template <class C>
using view_of_t = typename view_traits<std::remove_reference_t<C>>::view_type;

/// Anything an operator accepts as an output of the given rank.
template <class C, int Rank>
concept writable = requires { typename view_of_t<C>; } && view_of_t<C>::rank == Rank &&
                   !std::is_const_v<typename view_of_t<C>::element_type>;

/// Anything an operator accepts as an input of the given rank.
template <class C, int Rank>
concept readable = requires { typename view_of_t<const C>; } && view_of_t<const C>::rank == Rank;

/// The element type that a call is about, deduced from its output alone.
template <class C>
using element_of_t = typename view_of_t<C>::element_type;

/// The same where outputs are of a type of their own: deduced from the input q.
template <class C>
using value_of_t = typename view_of_t<const C>::value_type;

HEED_END
