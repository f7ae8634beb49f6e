/// A key/value cache whose sequences share a pool of pages.
#pragma once

#include <heed/core/setting.hpp>
#include <heed/kernel/page_walk.hpp>
#include <heed/kernel/row_store.hpp>

#include <algorithm>

HEED_BEGIN

struct paged_sizes {
  index_t batch = 1;
  index_t kv_heads = 1;
  /// Pages in the pool.
  index_t pages = 0;
  /// Tokens in a page.
  index_t page_size = 16;
  index_t features = 0;
  /// Default: features.
  setting<index_t> value_features{};
  /// Pages that one sequence may have; its list is reserved for as many. Default: pages.
  setting<index_t> sequence_pages{};
};

HEED_END

HEED_ARCH_BEGIN

/// Keys and values of B sequences in pages of a common pool: position p of a sequence is in slot p % page_size of page
/// p / page_size of its list. Sequences may share pages of a common prefix; a shared page is copied before a sequence
/// writes to it.
///
/// Rows, `keys`, `values` as in contiguous_cache.
/// k  [P,G,page_size,D], v [P,G,page_size,E]: the cache's own, or memory of the caller's. Any outer strides: pools with
///    the slot before the head are views with two axes exchanged.
///
/// Satisfies key_value_cache: one piece, at position 0, whose rows come in runs of up to a page. Slots past the end of
/// a sequence are never read.
/// Legal edges, copies: as contiguous_cache, and P = 0.
/// Cost: constructing allocates, B * sequence_pages + 3 P numbers for lists; nothing else allocates.
/// Deterministic: which page is taken depends on the order of calls alone. It never changes what is read.
/// Throws heed::invalid_argument: as contiguous_cache, and page_size < 1, P above 2^31 - 1, sequence_pages outside
/// 0..P.
/// Paper: Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, 2023.
template <class Rows>
class paged_cache : public detail::cache_rows<Rows> {
  using base = detail::cache_rows<Rows>;
  using typename base::memory;
  using typename base::settings;

 public:
  static constexpr int pieces = 1;

  explicit paged_cache(const paged_sizes& sizes, const settings& keys = {}, const settings& values = {})
      : base(shape_of(sizes, keys, values), keys, values), page_size_(sizes.page_size), end_({sizes.batch}) {
    reserve(sizes);
  }

  paged_cache(const paged_sizes& sizes, const memory& k, const memory& v, const settings& keys = {},
              const settings& values = {})
      : base(detail::checker("paged_cache"), shape_of(sizes, keys, values), k, v, keys, values),
        page_size_(sizes.page_size),
        end_({sizes.batch}) {
    reserve(sizes);
  }

  index_t batch() const noexcept { return end_.extent(0); }
  index_t page_size() const noexcept { return page_size_; }
  /// Pages that no sequence has.
  index_t free_pages() const noexcept { return free_count_; }
  /// How many sequences have a page.
  index_t references(index_t page) const noexcept { return references_(page); }
  /// The pages of sequence b, in order of position.
  view<const std::int32_t, 1> pages(index_t b) const noexcept {
    return table_.all()[b].slice(0, 0, pages_for(end_(b)));
  }

  /// Number of tokens of sequence b.
  index_t end(index_t b) const noexcept { return end_(b); }
  index_t position(index_t, int) const noexcept { return 0; }
  auto piece(index_t b, index_t g, int) const noexcept { return this->source(g, walk(b), 0, end_(b)); }

  /// Appends T rows to every sequence, taking pages as needed: k [B,G,T,D], v [B,G,T,E]. If the last page of a sequence
  /// is not full and others have it too, the sequence gets a copy of it first.
  ///
  /// Rounding, cost and errors as contiguous_cache::append; also throws before it writes anything if there are not
  /// enough free pages, or a sequence would need more than sequence_pages.
  void append(const new_rows<Rows, 4>& k, const new_rows<Rows, 4>& v) {
    const detail::checker check("paged_cache::append");
    this->check_new(check, batch(), k, v);
    check_pages(check, 0, batch(), this->rows_of(k));
    for (index_t b = 0; b < batch(); ++b) write(b, k[b], v[b]);
  }

  /// The same for one sequence: k [G,T,D], v [G,T,E].
  void append(index_t b, const new_rows<Rows, 3>& k, const new_rows<Rows, 3>& v) {
    const detail::checker check("paged_cache::append");
    detail::check_sequence(check, "b", b, batch());
    this->check_new(check, 1, k, v);
    check_pages(check, b, b + 1, this->rows_of(k));
    write(b, k, v);
  }

  /// Makes `to`, which must be empty, begin as `from` does: its first `length` tokens (default: all), in the same
  /// pages. Cost: O(pages); no row is copied.
  void fork(index_t from, index_t to, setting<index_t> length = {}) {
    const detail::checker check("paged_cache::fork");
    detail::check_sequence(check, "from", from, batch());
    detail::check_sequence(check, "to", to, batch());
    check.require(end_(to) == 0, "to", "an empty sequence", end_(to));
    const index_t count = length.or_default(end_(from));
    check.require(count >= 0 && count <= end_(from), "length", "0 to the end of `from`", count);
    for (index_t i = 0; i < pages_for(count); ++i) {
      table_(to, i) = table_(from, i);
      ++references_(table_(from, i));
    }
    end_(to) = count;
  }

  /// Forgets the tokens of sequence b from `length` on, 0 <= length <= end(b), and gives back the pages they had alone.
  void truncate(index_t b, index_t length) {
    const detail::checker check("paged_cache::truncate");
    detail::check_sequence(check, "b", b, batch());
    check.require(length >= 0 && length <= end_(b), "length", "0 to the sequence's end", length);
    shorten(b, length);
  }

  /// Forgets sequence b.
  void free(index_t b) {
    detail::check_sequence(detail::checker("paged_cache::free"), "b", b, batch());
    shorten(b, 0);
  }

  /// Forgets everything.
  void clear() noexcept {
    for (index_t b = 0; b < batch(); ++b) shorten(b, 0);
  }

 private:
  static detail::cache_shape shape_of(const paged_sizes& sizes, const settings& keys, const settings& values) {
    const detail::checker check("paged_cache");
    const index_t list = sizes.sequence_pages.or_default(sizes.pages);
    detail::check_pool(check, sizes.pages, sizes.page_size);
    check.require(list >= 0 && list <= sizes.pages, "sizes.sequence_pages", "0 to sizes.pages", list);
    return detail::checked_shape<Rows>(check, sizes, sizes.pages, sizes.page_size, keys, values);
  }

  void reserve(const paged_sizes& sizes) {
    table_ = tensor<std::int32_t, 2>({sizes.batch, sizes.sequence_pages.or_default(sizes.pages)});
    references_ = tensor<std::int32_t, 1>({sizes.pages});
    appending_ = tensor<std::int32_t, 1>({sizes.pages});
    free_ = tensor<std::int32_t, 1>({sizes.pages});
    free_count_ = sizes.pages;
    for (index_t i = 0; i < sizes.pages; ++i) free_(i) = static_cast<std::int32_t>(sizes.pages - 1 - i);
  }

  detail::paged_walk walk(index_t b) const noexcept { return {table_.data() + b * table_.extent(1), page_size_}; }
  index_t pages_for(index_t tokens) const noexcept { return (tokens + page_size_ - 1) / page_size_; }
  std::int32_t& last_page(index_t b) noexcept { return table_(b, end_(b) / page_size_); }

  /// T rows more for sequences [first, last). Of the sequences that write to a page they share, all copy it but the
  /// last one, if no other sequence has it.
  void check_pages(const detail::checker& check, index_t first, index_t last, index_t rows) {
    for (index_t b = first; b < last; ++b)
      if (const index_t room = table_.extent(1) * page_size_ - end_(b); rows > room) [[unlikely]]
        check.fail_with(
            "k (T)",
            detail::text("at most %lld, the room left in the %lld pages of sequence %lld", static_cast<long long>(room),
                         static_cast<long long>(table_.extent(1)), static_cast<long long>(b))
                .c_str(),
            detail::show(rows).c_str());
    if (rows == 0) return;
    index_t needed = 0;
    for (index_t b = first; b < last; ++b) {
      needed += pages_for(end_(b) + rows) - pages_for(end_(b));
      if (end_(b) % page_size_ != 0) needed += ++appending_(last_page(b)) < references_(last_page(b));
    }
    for (index_t b = first; b < last; ++b)
      if (end_(b) % page_size_ != 0) appending_(last_page(b)) = 0;
    if (needed > free_count_) [[unlikely]]
      check.fail_with("k (T)", detail::text("rows for %lld free pages", static_cast<long long>(free_count_)).c_str(),
                      detail::text("rows for %lld", static_cast<long long>(needed)).c_str());
  }

  std::int32_t take() noexcept {
    const std::int32_t page = free_(--free_count_);
    references_(page) = 1;
    return page;
  }
  void drop(std::int32_t page) noexcept {
    if (--references_(page) == 0) free_(free_count_++) = page;
  }

  void write(index_t b, const new_rows<Rows, 3>& k, const new_rows<Rows, 3>& v) noexcept {
    const index_t begin = end_(b), end = begin + this->rows_of(k);
    if (begin == end) return;
    if (begin % page_size_ != 0 && references_(last_page(b)) > 1) {
      const std::int32_t shared = last_page(b);
      last_page(b) = take();
      this->copy_entry(shared, last_page(b), begin % page_size_);
      drop(shared);
    }
    for (index_t i = pages_for(begin); i < pages_for(end); ++i) table_(b, i) = take();
    this->write_rows(walk(b), begin, k, v);
    end_(b) = end;
  }

  void shorten(index_t b, index_t length) noexcept {
    for (index_t i = pages_for(end_(b)); i-- > pages_for(length);) drop(table_(b, i));
    end_(b) = length;
  }

  index_t page_size_;
  index_t free_count_ = 0;
  tensor<index_t, 1> end_;
  /// [B, sequence_pages]
  tensor<std::int32_t, 2> table_;
  /// [P] each: how many sequences have a page; how many of a call write to it; the free ones, free_count_ of them.
  tensor<std::int32_t, 1> references_, appending_, free_;
};

HEED_ARCH_END
