/// Where keys and values come from. The tile engine asks a source for runs of rows and never knows how they are stored.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

#include <concepts>

HEED_ARCH_BEGIN
namespace detail {

/// Consecutive rows at one stride.
template <class S>
struct row_run {
  const S* data;
  index_t stride;
  index_t count;
};

/// A source of one (batch entry, kv head): `count` keys, of which `keys(first, most)` and `values(first, most)` return
/// the longest run of at most `most` rows that starts at row `first`. A dense tensor answers with one run, a paged
/// cache with what is left of a page.
template <class Source, class S>
concept key_value_source = requires(const Source& source, index_t i) {
  { source.count } -> std::convertible_to<index_t>;
  { source.keys(i, i) } -> std::same_as<row_run<S>>;
  { source.values(i, i) } -> std::same_as<row_run<S>>;
};

/// Rows at a fixed stride: a dense tensor, or one sequence of a packed batch.
template <class S>
struct dense_source {
  using storage_type = S;
  const S* key_data;
  const S* value_data;
  index_t key_stride;
  index_t value_stride;
  index_t count;

  row_run<S> keys(index_t first, index_t most) const noexcept {
    return {key_data + first * key_stride, key_stride, most};
  }
  row_run<S> values(index_t first, index_t most) const noexcept {
    return {value_data + first * value_stride, value_stride, most};
  }
};

}  // namespace detail
HEED_ARCH_END
