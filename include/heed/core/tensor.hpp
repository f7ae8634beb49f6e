/// An owning, aligned, dense tensor for programs that have none of their own.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

HEED_BEGIN

/// A dense array of rank 1..5, last axis fastest, aligned to 64 bytes, zero-initialised. Copies copy the elements.
/// Converts to `view` of mutable or const elements; every operator takes it directly, and `all()` names the view.
///
///     heed::tensor<float, 4> q({B, H, N, D});
///     auto mask = heed::tensor<float, 2>::full({N, M}, 1.0f);
///
/// Throws std::bad_alloc if there is no memory for that many elements; a negative extent counts as far too many.
template <class T, int Rank>
class tensor {
  static_assert(std::is_trivially_copyable_v<T>, "heed::tensor: elements must be trivially copyable");

 public:
  using element_type = T;
  static constexpr int rank = Rank;

  /// Empty: no memory, all extents 0.
  HEED_INLINE tensor() noexcept = default;

  HEED_INLINE explicit tensor(const index_t (&extents)[Rank]) : view_(allocate(extents), extents) {
    std::memset(static_cast<void*>(view_.data()), 0, bytes());
  }

  /// A tensor with every element equal to `value`.
  HEED_INLINE static tensor full(const index_t (&extents)[Rank], T value) {
    tensor filled(extents);
    filled.fill(value);
    return filled;
  }

  HEED_INLINE tensor(const tensor& other) { copy(other); }
  HEED_INLINE tensor(tensor&& other) noexcept : view_(other.view_) { other.view_ = {}; }
  HEED_INLINE tensor& operator=(const tensor& other) {
    if (this != &other) {
      tensor fresh(other);
      swap(fresh);
    }
    return *this;
  }
  HEED_INLINE tensor& operator=(tensor&& other) noexcept {
    tensor taken(static_cast<tensor&&>(other));
    swap(taken);
    return *this;
  }
  HEED_INLINE ~tensor() {
    if (view_.data() != nullptr) ::operator delete(static_cast<void*>(view_.data()), alignment);
  }

  HEED_INLINE operator view<T, Rank>() noexcept { return view_; }
  HEED_INLINE operator view<const T, Rank>() const noexcept { return view_; }
  HEED_INLINE view<T, Rank> all() noexcept { return view_; }
  HEED_INLINE view<const T, Rank> all() const noexcept { return view_; }

  HEED_INLINE T* data() noexcept { return view_.data(); }
  HEED_INLINE const T* data() const noexcept { return view_.data(); }
  HEED_INLINE index_t size() const noexcept { return view_.size(); }
  HEED_INLINE index_t extent(int axis) const noexcept { return view_.extent(axis); }
  HEED_INLINE index_t stride(int axis) const noexcept { return view_.stride(axis); }
  HEED_INLINE T* begin() noexcept { return data(); }
  HEED_INLINE T* end() noexcept { return data() + size(); }
  HEED_INLINE const T* begin() const noexcept { return data(); }
  HEED_INLINE const T* end() const noexcept { return data() + size(); }

  template <class... Index>
  HEED_INLINE T& operator()(Index... index) noexcept {
    return view_(index...);
  }
  template <class... Index>
  HEED_INLINE const T& operator()(Index... index) const noexcept {
    return view_(index...);
  }

  HEED_INLINE void fill(T value) noexcept {
    T* const elements = data();
    for (index_t i = 0, n = size(); i < n; ++i) elements[i] = value;
  }

  HEED_INLINE void swap(tensor& other) noexcept {
    const view<T, Rank> mine = view_;
    view_ = other.view_;
    other.view_ = mine;
  }

 private:
  static constexpr std::align_val_t alignment{64};

  HEED_INLINE std::size_t bytes() const noexcept { return static_cast<std::size_t>(size()) * sizeof(T); }

  HEED_INLINE static T* allocate(const index_t (&extents)[Rank]) {
    // A zero extent counts as one here, so that no stride can overflow either.
    index_t count = 1, total = 0;
    bool legal = true;
    for (int axis = 0; axis < Rank; ++axis) {
      legal = legal && extents[axis] >= 0;
      legal = legal && !__builtin_mul_overflow(count, extents[axis] > 0 ? extents[axis] : 1, &count);
    }
    legal = legal && !__builtin_mul_overflow(count, static_cast<index_t>(sizeof(T)), &total);
    if (!legal) [[unlikely]] {
#if HEED_EXCEPTIONS
      throw std::bad_alloc();
#else
      std::abort();
#endif
    }
    return static_cast<T*>(::operator new(static_cast<std::size_t>(total), alignment));
  }

  HEED_INLINE void copy(const tensor& other) {
    if (other.data() == nullptr) return;
    index_t extents[Rank];
    for (int axis = 0; axis < Rank; ++axis) extents[axis] = other.extent(axis);
    view_ = view<T, Rank>(allocate(extents), extents);
    std::memcpy(static_cast<void*>(view_.data()), static_cast<const void*>(other.data()), bytes());
  }

  view<T, Rank> view_;
};

template <class T, int Rank>
struct view_traits<tensor<T, Rank>> {
  using view_type = view<T, Rank>;
  HEED_INLINE static view_type make(tensor<T, Rank>& t) noexcept { return t; }
};

template <class T, int Rank>
struct view_traits<const tensor<T, Rank>> {
  using view_type = view<const T, Rank>;
  HEED_INLINE static view_type make(const tensor<T, Rank>& t) noexcept { return t; }
};

HEED_END
