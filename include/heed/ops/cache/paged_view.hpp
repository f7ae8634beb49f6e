/// A paged key/value cache that somebody else manages.
#pragma once

#include <heed/core/setting.hpp>
#include <heed/kernel/page_walk.hpp>
#include <heed/kernel/row_store.hpp>

#include <cstdint>

HEED_BEGIN

struct page_pool_sizes {
  index_t kv_heads = 1;
  index_t pages = 0;
  index_t page_size = 16;
  index_t features = 0;
  /// Default: features.
  setting<index_t> value_features{};
};

/// The pages of each sequence: sequence b has pages indices[indptr[b]] .. indices[indptr[b + 1] - 1], all full but the
/// last, which has last_page_len[b] tokens.
struct page_table {
  /// [B+1], from 0 on, never falling.
  view<const std::int32_t, 1> indptr{};
  /// [indptr[B]]
  view<const std::int32_t, 1> indices{};
  /// [B], 1 to page_size; not read for a sequence without pages, which is empty.
  view<const std::int32_t, 1> last_page_len{};
};

HEED_END

HEED_ARCH_BEGIN

/// Keys and values of B sequences in pages of a pool, read through a table in compressed rows. Position p of sequence b
/// is in slot p % page_size of page indices[indptr[b] + p / page_size].
///
/// k      [P,G,page_size,D], v [P,G,page_size,E], any outer strides
/// table  see page_table. A page may belong to several sequences.
/// keys, values: settings of coded rows, as in contiguous_cache.
///
/// Pool and table are the caller's. Rows may change while the view lives; the table must not: it is checked once, and
/// read by every call.
/// Satisfies key_value_cache: one piece, at position 0. Slots past the end of a sequence are never read.
/// Legal edges: B = 0, P = 0, sequences without pages. Cost: O(B + pages of all sequences) to make; allocates nothing.
/// Throws heed::invalid_argument: sizes and memory as contiguous_cache, page_size < 1; tables of other extents, that
/// are not contiguous, indptr that falls or does not begin with 0, pages outside the pool, last_page_len outside
/// 1..page_size.
template <class Rows>
class paged_view {
  using memory = const_row_memory<Rows>;
  using settings = row_settings<Rows>;

 public:
  static constexpr int pieces = 1;

  paged_view(const page_pool_sizes& sizes, const memory& k, const memory& v, const page_table& table,
             const settings& keys = {}, const settings& values = {})
      : heads_(sizes.kv_heads),
        page_size_(sizes.page_size),
        keys_{k, keys, sizes.features},
        values_{v, values, sizes.value_features.or_default(sizes.features)},
        table_(table) {
    const detail::checker check("paged_view");
    detail::check_pool(check, sizes.pages, sizes.page_size);
    detail::checked_shape<Rows>(check, sizes, sizes.pages, sizes.page_size, keys, values);
    const detail::row_axes axes{sizes.pages, sizes.kv_heads, sizes.page_size, "slots, as sizes.page_size"};
    detail::check_stored(check, k, detail::names_of_k, axes, keys, keys_.features);
    detail::check_stored(check, v, detail::names_of_v, axes, values, values_.features);
    check_table(check, sizes.pages);
  }

  index_t batch() const noexcept { return table_.last_page_len.extent(0); }
  index_t kv_heads() const noexcept { return heads_; }
  index_t features() const noexcept { return keys_.features; }
  index_t value_features() const noexcept { return values_.features; }
  index_t page_size() const noexcept { return page_size_; }

  /// Number of tokens of sequence b.
  index_t end(index_t b) const noexcept {
    const index_t pages = table_.indptr[b + 1] - table_.indptr[b];
    return pages == 0 ? 0 : (pages - 1) * page_size_ + table_.last_page_len[b];
  }
  index_t position(index_t, int) const noexcept { return 0; }
  auto piece(index_t b, index_t g, int) const noexcept {
    const detail::paged_walk walk{table_.indices.data() + table_.indptr[b], page_size_};
    return detail::source_of(keys_, values_, g, walk, 0, end(b));
  }

 private:
  void check_table(const detail::checker& check, index_t pages) const {
    check.tensor(table_.indptr, "table.indptr");
    check.tensor(table_.indices, "table.indices");
    check.tensor(table_.last_page_len, "table.last_page_len");
    check.extent(table_.indptr, "table.indptr", 0, batch() + 1, "B + 1, as table.last_page_len");
    check.require(table_.indptr[0] == 0, "table.indptr[0]", "0", table_.indptr[0]);
    for (index_t b = 0; b < batch(); ++b) {
      const index_t count = table_.indptr[b + 1] - table_.indptr[b];
      check.require(count >= 0, "table.indptr", "offsets that never fall", count);
      const index_t last = table_.last_page_len[b];
      check.require(count == 0 || (last >= 1 && last <= page_size_), "table.last_page_len", "1 to sizes.page_size",
                    last);
    }
    check.extent(table_.indices, "table.indices", 0, table_.indptr[batch()], "the last of table.indptr");
    for (index_t i = 0; i < table_.indices.extent(0); ++i)
      check.require(table_.indices[i] >= 0 && table_.indices[i] < pages, "table.indices", "pages of the pool",
                    index_t(table_.indices[i]));
  }

  index_t heads_, page_size_;
  detail::stored_rows<Rows> keys_, values_;
  page_table table_;
};

HEED_ARCH_END
