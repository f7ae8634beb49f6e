/// A block of keys and values as the tiles of queries read it, and the memory that those tiles share.
#pragma once

#include <heed/kernel/source.hpp>
#include <heed/kernel/tile_io.hpp>
#include <heed/kernel/tile_shape.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Memory of one worker that serves whichever tile is at work.
template <class T, class A>
struct tile_buffers {
  using shape = tile_shape<T, A>;

  /// `convert`: keys and values are stored as another type than T; `with_bias`: there is an additive bias.
  tile_buffers(scratch_cursor& memory, index_t d, index_t e, bool convert, bool with_bias) noexcept
      : features(d),
        value_features(e),
        scores(memory.take<T>(shape::keys * shape::queries)),
        bias(with_bias ? memory.take<T>(shape::keys * shape::queries) : nullptr),
        keys(convert ? memory.take<T>(shape::keys * conflict_free_pitch<T>(d)) : nullptr),
        values(convert ? memory.take<T>(shape::keys * conflict_free_pitch<T>(e)) : nullptr) {}

  index_t features, value_features;
  T* scores;  // [key][lane]
  T* bias;    // [key][lane]
  T* keys;    // [key][conflict_free_pitch], converted
  T* values;  // [key][conflict_free_pitch], converted
};

/// Keys [first, first + count) of a source and their values, as rows of T: where the source has them, or converted.
template <class Source, class T, class A>
class key_block {
 public:
  key_block(const Source& source, index_t first, int count, const tile_buffers<T, A>& buffers) noexcept
      : source_(source), first_(first), count_(count), buffers_(buffers) {
    if constexpr (coded_source<Source>) {
      source.template load_keys<T, A>(first, count, buffers.keys, conflict_free_pitch<T>(buffers.features));
      source.template load_values<T, A>(first, count, buffers.values, conflict_free_pitch<T>(buffers.value_features));
    } else if constexpr (converted) {
      convert(keys(), buffers_.features, buffers_.keys);
      convert(values(), buffers_.value_features, buffers_.values);
    }
  }

  int count() const noexcept { return count_; }

  /// Calls f(rows, stride, count, number of the first row in the block) for keys [first, first + count) of the block.
  template <class F>
  HEED_INLINE void for_keys(int first, int count, F f) const {
    for_rows(keys(), buffers_.keys, buffers_.features, first, count, f);
  }
  /// The same for values.
  template <class F>
  HEED_INLINE void for_values(int first, int count, F f) const {
    for_rows(values(), buffers_.values, buffers_.value_features, first, count, f);
  }

 private:
  static constexpr bool converted = converts_rows<Source, T>;

  auto keys() const noexcept {
    return [this](index_t row, index_t most) { return source_.keys(row, most); };
  }
  auto values() const noexcept {
    return [this](index_t row, index_t most) { return source_.values(row, most); };
  }

  template <class Get>
  void convert(Get get, index_t features, T* to) const noexcept {
    const index_t stride = conflict_free_pitch<T>(features);
    for_runs(get, 0, count_, [&](const auto* rows, index_t step, int count, int row) {
      for (int i = 0; i < count; ++i) convert_row<T, A>(rows + i * step, to + (row + i) * stride, features);
    });
  }
  template <class Get, class F>
  HEED_INLINE void for_rows(Get get, const T* copies, index_t features, int first, int count, F f) const {
    const index_t stride = conflict_free_pitch<T>(features);
    if constexpr (converted)
      f(copies + first * stride, stride, count, first);
    else
      for_runs(get, first, count, f);
  }
  template <class Get, class F>
  HEED_INLINE void for_runs(Get get, int first, int count, F f) const {
    for (const int end = first + count; first < end;) {
      const auto run = get(first_ + first, end - first);
      f(run.data, run.stride, static_cast<int>(run.count), first);
      first += static_cast<int>(run.count);
    }
  }

  const Source& source_;
  index_t first_;
  int count_;
  const tile_buffers<T, A>& buffers_;
};

}  // namespace detail
HEED_ARCH_END
