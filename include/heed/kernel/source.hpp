/// Where keys and values come from. The engine asks a source for rows and never knows how they are stored.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>
#include <heed/kernel/row_handles.hpp>
#include <heed/simd/arch.hpp>

#include <concepts>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

/// Consecutive rows at one stride.
template <class S>
struct row_run {
  const S* data;
  index_t stride;
  index_t count;

  HEED_INLINE strided_rows<const S> rows() const noexcept { return {data, stride}; }
};

/// A source of one (sequence, kv head): `count` keys and their values, as rows of `storage_type`. `keys(first, most)`
/// and `values(first, most)` return the longest run of at most `most` rows that starts at row `first`. A dense tensor
/// answers with one run, a paged cache with what is left of a page.
template <class Source>
concept row_source = requires(const Source& source, index_t i) {
  typename Source::storage_type;
  { source.count } -> std::convertible_to<index_t>;
  { source.keys(i, i) } -> std::same_as<row_run<typename Source::storage_type>>;
  { source.values(i, i) } -> std::same_as<row_run<typename Source::storage_type>>;
};

/// A source whose rows are no numbers yet: `load_keys<T, A>(first, n, to, pitch)` and `load_values<T, A>` write rows
/// [first, first + n) to `to`, `pitch` elements apart, aligned; they may fill up vectors with zeros.
template <class Source>
concept coded_source = requires(const Source& source, index_t i, float* to) {
  { source.count } -> std::convertible_to<index_t>;
  source.template load_keys<float, default_arch>(i, int(i), to, i);
  source.template load_values<float, default_arch>(i, int(i), to, i);
};

/// Numbers that rows are to be multiplied by, `stride` apart; null: none.
struct row_scales {
  const float* data = nullptr;
  index_t stride = 0;
};

/// Consecutive rows at one stride, and their scales.
template <class S>
struct scaled_run {
  const S* data;
  index_t stride;
  index_t count;
  row_scales scales;
};

/// A coded source that, where `scaled()` says so, also gives runs of the integers that its rows are a multiple of.
template <class Source>
concept scaled_source = coded_source<Source> && requires(const Source& source, index_t i) {
  { source.scaled() } -> std::convertible_to<bool>;
  source.scaled_keys(i, i);
  source.scaled_values(i, i);
};

template <class Source>
concept key_value_source = row_source<Source> || coded_source<Source>;

/// Whether rows of a source must be made into numbers of type T first.
template <class Source, class T>
inline constexpr bool converts_rows = true;
template <row_source Source, class T>
inline constexpr bool converts_rows<Source, T> = !std::is_same_v<typename Source::storage_type, T>;

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

/// Rows that may be anywhere: a list of them.
template <class S>
struct pointed_run {
  const S* const* data;
  index_t count;

  HEED_INLINE pointed_rows<const S> rows() const noexcept { return {data}; }
};
template <class S>
struct pointed_source {
  using storage_type = S;
  const S* const* key_rows;
  const S* const* value_rows;
  index_t count;

  pointed_run<S> keys(index_t first, index_t most) const noexcept { return {key_rows + first, most}; }
  pointed_run<S> values(index_t first, index_t most) const noexcept { return {value_rows + first, most}; }
};
template <class S, class T>
inline constexpr bool converts_rows<pointed_source<S>, T> = !std::is_same_v<S, T>;

}  // namespace detail

/// What operators ask of a cache: for sequence b and kv head g, keys and values in `pieces` pieces of consecutive
/// positions.
///
/// piece(b, g, p)   the source of piece p, whose `count` may be 0; rows are in order of position
/// position(b, p)   position of its first key
/// end(b)           position after the newest key of the sequence
template <class C>
concept key_value_cache = requires(const C& cache, index_t i) {
  { C::pieces } -> std::convertible_to<int>;
  { cache.batch() } -> std::convertible_to<index_t>;
  { cache.kv_heads() } -> std::convertible_to<index_t>;
  { cache.features() } -> std::convertible_to<index_t>;
  { cache.value_features() } -> std::convertible_to<index_t>;
  { cache.piece(i, i, int(i)) } -> detail::key_value_source;
  { cache.position(i, int(i)) } -> std::convertible_to<index_t>;
  { cache.end(i) } -> std::convertible_to<index_t>;
};

HEED_ARCH_END
