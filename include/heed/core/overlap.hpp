/// Whether two strided tensors share memory: exact, from extents and strides alone.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <cstdint>

HEED_ARCH_BEGIN
namespace detail {

/// The bytes of a tensor: runs of `run` contiguous bytes, the first at `low`, repeated along axes of positive stride in
/// bytes. Axes are sorted by stride, largest first; broadcast axes and axes that merely extend the run are gone.
struct footprint {
  std::uintptr_t low = 0;
  index_t run = 0;
  int axes = 0;
  index_t extent[5] = {};
  index_t stride[5] = {};

  /// Bytes from the first to the last, both included.
  constexpr index_t span() const noexcept {
    index_t bytes = run;
    for (int axis = 0; axis < axes; ++axis) bytes += (extent[axis] - 1) * stride[axis];
    return bytes;
  }
};

template <class T, int Rank>
bool is_empty(const view<T, Rank>& t) noexcept {
  for (int axis = 0; axis < Rank; ++axis)
    if (t.extent(axis) == 0) return true;
  return false;
}

inline void fold_axes(footprint& bytes) noexcept {
  for (int i = 1; i < bytes.axes; ++i)
    for (int j = i; j > 0 && bytes.stride[j] > bytes.stride[j - 1]; --j) {
      const index_t extent = bytes.extent[j], stride = bytes.stride[j];
      bytes.extent[j] = bytes.extent[j - 1];
      bytes.stride[j] = bytes.stride[j - 1];
      bytes.extent[j - 1] = extent;
      bytes.stride[j - 1] = stride;
    }
  while (bytes.axes > 0 && bytes.stride[bytes.axes - 1] <= bytes.run) {
    --bytes.axes;
    bytes.run += (bytes.extent[bytes.axes] - 1) * bytes.stride[bytes.axes];
  }
}

/// run = 0 for an empty tensor.
template <class T, int Rank>
HEED_NOINLINE footprint footprint_of(const view<T, Rank>& t) noexcept {
  footprint bytes;
  if (is_empty(t)) return bytes;
  bytes.low = reinterpret_cast<std::uintptr_t>(t.data());
  bytes.run = sizeof(T);
  for (int axis = 0; axis < Rank; ++axis) {
    const index_t extent = t.extent(axis), stride = t.stride(axis) * index_t(sizeof(T));
    if (extent <= 1 || stride == 0) continue;
    if (stride < 0) bytes.low -= static_cast<std::uintptr_t>((extent - 1) * -stride);
    bytes.extent[bytes.axes] = extent;
    bytes.stride[bytes.axes++] = stride < 0 ? -stride : stride;
  }
  fold_axes(bytes);
  return bytes;
}

/// Two runs lie `delta + sum of t * stride` bytes apart, with a whole number t in [low, high] for each stride. The
/// search looks for one distance that makes them meet. Larger strides come first, so in the layouts that programs use
/// (a stride is at least the reach of the smaller ones) one or two t are possible at each level.
class overlap_search {
 public:
  overlap_search(const footprint& a, const footprint& b) noexcept : run_a_(a.run), run_b_(b.run) {
    int i = 0, j = 0;
    while (i < a.axes || j < b.axes) {
      const index_t stride_a = i < a.axes ? a.stride[i] : 0, stride_b = j < b.axes ? b.stride[j] : 0;
      level& here = levels_[count_++];
      here.stride = stride_a > stride_b ? stride_a : stride_b;
      if (stride_a == here.stride) here.low = -(a.extent[i++] - 1);
      if (stride_b == here.stride) here.high = b.extent[j++] - 1;
    }
    for (int k = count_ - 1; k > 0; --k) {
      levels_[k - 1].rest_low = levels_[k].rest_low + levels_[k].low * levels_[k].stride;
      levels_[k - 1].rest_high = levels_[k].rest_high + levels_[k].high * levels_[k].stride;
    }
  }

  HEED_COLD bool meets(index_t delta, int k = 0) noexcept {
    if (k == count_) return delta < run_a_ && delta + run_b_ > 0;
    const level& here = levels_[k];
    const index_t first = max(here.low, -floor_divide(delta + here.rest_high + run_b_ - 1, here.stride));
    const index_t last = min(here.high, floor_divide(run_a_ - 1 - delta - here.rest_low, here.stride));
    for (index_t t = first; t <= last; ++t) {
      // Strides that interleave in no regular way can make the search long; what it has not ruled out counts as
      // overlap.
      if (--patience_ < 0) return true;
      if (meets(delta + t * here.stride, k + 1)) return true;
    }
    return false;
  }

 private:
  struct level {
    index_t stride = 0, low = 0, high = 0;
    /// What the levels below can add.
    index_t rest_low = 0, rest_high = 0;
  };

  static constexpr index_t min(index_t a, index_t b) noexcept { return a < b ? a : b; }
  static constexpr index_t max(index_t a, index_t b) noexcept { return a > b ? a : b; }
  static constexpr index_t floor_divide(index_t a, index_t b) noexcept { return a / b - (a % b < 0 ? 1 : 0); }

  index_t run_a_, run_b_;
  level levels_[10];
  int count_ = 0;
  int patience_ = 4096;
};

/// True only if no byte belongs to both.
HEED_COLD inline bool disjoint(const footprint& x, const footprint& y) noexcept {
  if (x.run == 0 || y.run == 0) return true;
  const auto delta = static_cast<index_t>(y.low - x.low);
  if (delta >= x.span() || -delta >= y.span()) return true;
  return !overlap_search(x, y).meets(delta);
}

template <class T, int R1, class U, int R2>
bool disjoint(const view<T, R1>& a, const view<U, R2>& b) noexcept {
  return disjoint(footprint_of(a), footprint_of(b));
}

/// True if no two indices name the same element. An exotic layout (a stride smaller than the reach of the strides below
/// it) counts as shared.
template <class T, int Rank>
bool distinct_elements(const view<T, Rank>& t) noexcept {
  if (is_empty(t)) return true;
  for (int axis = 0; axis < Rank; ++axis)
    if (t.extent(axis) > 1 && t.stride(axis) == 0) return false;
  for (int axis = 0; axis < Rank; ++axis) {
    if (t.extent(axis) == 1) continue;
    const index_t stride = t.stride(axis) < 0 ? -t.stride(axis) : t.stride(axis);
    index_t reach = 0;
    for (int other = 0; other < Rank; ++other) {
      const index_t smaller = t.stride(other) < 0 ? -t.stride(other) : t.stride(other);
      if (other != axis && t.extent(other) > 1 && (smaller < stride || (smaller == stride && other > axis)))
        reach += (t.extent(other) - 1) * smaller;
    }
    if (stride <= reach) return false;
  }
  return true;
}

}  // namespace detail
HEED_ARCH_END
