/// A block of keys and values as the tiles of queries read it, and the memory that those tiles share.
#pragma once

#include <heed/kernel/rows.hpp>
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
    if constexpr (converted) {
      load_rows<keys_of, T, A>(source, first, count, buffers.features, buffers.keys, pitch(buffers.features));
      load_rows<values_of, T, A>(source, first, count, buffers.value_features, buffers.values,
                                 pitch(buffers.value_features));
    }
  }

  int count() const noexcept { return count_; }

  /// Calls f(rows, count, number of the first row in the block) for keys [first, first + count) of the block.
  template <class F>
  HEED_INLINE void for_keys(int first, int count, F f) const {
    for_rows<keys_of>(buffers_.keys, buffers_.features, first, count, f);
  }
  /// The same for values.
  template <class F>
  HEED_INLINE void for_values(int first, int count, F f) const {
    for_rows<values_of>(buffers_.values, buffers_.value_features, first, count, f);
  }

 private:
  static constexpr bool converted = converts_rows<Source, T>;
  static constexpr index_t pitch(index_t features) noexcept { return conflict_free_pitch<T>(features); }

  template <class Which, class F>
  HEED_INLINE void for_rows(const T* copies, index_t features, int first, int count, F f) const {
    if constexpr (converted)
      f(strided_rows<const T>{copies + first * pitch(features), pitch(features)}, count, first);
    else
      for_runs<Which>(source_, first_ + first, count,
                      [&](const auto& rows, int some, int row) { f(rows, some, first + row); });
  }

  const Source& source_;
  index_t first_;
  int count_;
  const tile_buffers<T, A>& buffers_;
};

}  // namespace detail
HEED_ARCH_END
