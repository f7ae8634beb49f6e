/// The keys and values of a call, by (sequence, kv head): tensors, or a cache.
#pragma once

#include <heed/core/sequence_offsets.hpp>
#include <heed/kernel/source.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Where the rows of a sequence lie in a tensor: `count` rows of entry `batch` of its first axis, from `first` on.
struct sequence_span {
  index_t batch, first, count;
};

/// Of a tensor with `rows` rows an entry, one sequence each, or with all sequences packed into its one entry.
inline sequence_span span_of(const sequence_offsets& cu, index_t sequence, index_t rows) noexcept {
  if (!cu) return {sequence, 0, rows};
  const index_t first = cu.at(sequence);
  return {0, first, cu.at(sequence + 1) - first};
}

/// Tensors with one sequence for each entry of the batch, of which `lengths`, if given, says how many rows count; or
/// with all sequences packed into one entry.
template <class S>
struct dense_keys {
  using source_type = dense_source<S>;

  view<const S, 4> k;  // [B,G,M,D], batch stride 0 if shared
  view<const S, 4> v;  // [B,G,M,E]
  sequence_offsets cu{};
  sequence_lengths lengths{};

  index_t kv_heads() const noexcept { return k.extent(1); }
  sequence_span span(index_t sequence) const noexcept {
    return span_of(cu, sequence, lengths ? lengths.at(sequence) : k.extent(2));
  }
  source_type source(index_t sequence, index_t group) const noexcept {
    const sequence_span rows = span(sequence);
    if (rows.count == 0) return {};
    return {&k(rows.batch, group, rows.first, 0), &v(rows.batch, group, rows.first, 0), k.stride(2), v.stride(2),
            rows.count};
  }
  /// Of the first key, and after the last.
  index_t position(index_t) const noexcept { return 0; }
  index_t end(index_t sequence) const noexcept { return span(sequence).count; }
};

/// A piece of a cache.
template <key_value_cache C>
struct cached_keys {
  using source_type = decltype(std::declval<const C&>().piece(0, 0, 0));

  const C& cache;
  int piece;

  index_t kv_heads() const noexcept { return cache.kv_heads(); }
  source_type source(index_t sequence, index_t group) const noexcept { return cache.piece(sequence, group, piece); }
  index_t position(index_t sequence) const noexcept { return cache.position(sequence, piece); }
  index_t end(index_t sequence) const noexcept { return cache.end(sequence); }
};

}  // namespace detail
HEED_ARCH_END
