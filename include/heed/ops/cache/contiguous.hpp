/// A key/value cache with one block of rows for each sequence.
#pragma once

#include <heed/core/setting.hpp>
#include <heed/kernel/row_store.hpp>

HEED_BEGIN

struct contiguous_sizes {
  index_t batch = 1;
  index_t kv_heads = 1;
  /// Tokens that each sequence has room for.
  index_t capacity = 0;
  index_t features = 0;
  /// Default: features.
  setting<index_t> value_features{};
};

HEED_END

HEED_ARCH_BEGIN
namespace detail {

struct contiguous_walk {
  index_t entry;
  row_place operator()(index_t position, index_t most) const noexcept { return {entry, position, most}; }
};

}  // namespace detail

/// Keys and values of B sequences, position p of sequence b in row p of block b.
///
/// Rows: float, double, bfloat16 or float16, or int8_rows, int4_rows, int4_half32_rows (docs/cache.md). Keys and values
/// have settings of their own, `keys` and `values`; element types have none.
///
/// k  [B,G,capacity,D], v [B,G,capacity,E]: the cache's own (heed::tensor), or memory of the caller's, any outer
/// strides, which must outlive it. Rows at or past the end of a sequence are never read.
///
/// Satisfies key_value_cache: one piece, at position 0. Legal edges: B = 0, G = 0, capacity = 0.
/// Copies: own rows are copied, the caller's are shared.
/// Cost: constructing allocates and clears; nothing else allocates. Not synchronised: one writer, or many readers.
/// Throws heed::invalid_argument: sizes below 0, features below 1, more than 2^30 tokens, a group below 0, memory of
/// other extents than the sizes say, a strided last axis, null data, overlapping memory.
template <class Rows>
class contiguous_cache : public detail::cache_rows<Rows> {
  using base = detail::cache_rows<Rows>;
  using typename base::memory;
  using typename base::settings;

 public:
  static constexpr int pieces = 1;

  explicit contiguous_cache(const contiguous_sizes& sizes, const settings& keys = {}, const settings& values = {})
      : base(shape_of(sizes, keys, values), keys, values), capacity_(sizes.capacity), end_({sizes.batch}) {}

  contiguous_cache(const contiguous_sizes& sizes, const memory& k, const memory& v, const settings& keys = {},
                   const settings& values = {})
      : base(detail::checker("contiguous_cache"), shape_of(sizes, keys, values), k, v, keys, values),
        capacity_(sizes.capacity),
        end_({sizes.batch}) {}

  index_t batch() const noexcept { return end_.extent(0); }
  index_t capacity() const noexcept { return capacity_; }

  /// Number of tokens of sequence b.
  index_t end(index_t b) const noexcept { return end_(b); }
  index_t position(index_t, int) const noexcept { return 0; }
  auto piece(index_t b, index_t g, int) const noexcept {
    return this->source(g, detail::contiguous_walk{b}, 0, end_(b));
  }

  /// Appends T rows to every sequence: k [B,G,T,D], v [B,G,T,E], of float or as the cache stores them. T = 0 is legal.
  ///
  /// float rows are rounded to nearest even; coded rows get, for each group of features, the scale max |x| / 127 (8
  /// bits) or max |x| / 7 (4 bits) and the nearest codes. Cost: O(B G T (D + E)).
  /// Throws heed::invalid_argument before it writes anything: extents that do not fit, a strided last axis, null data,
  /// overlap with the cache's memory, more tokens than there is room for; for coded rows, numbers that are not finite.
  void append(const new_rows<Rows, 4>& k, const new_rows<Rows, 4>& v) {
    const detail::checker check("contiguous_cache::append");
    this->check_new(check, batch(), k, v);
    for (index_t b = 0; b < batch(); ++b) check_room(check, b, this->rows_of(k));
    for (index_t b = 0; b < batch(); ++b) write(b, k[b], v[b]);
  }

  /// The same for one sequence: k [G,T,D], v [G,T,E].
  void append(index_t b, const new_rows<Rows, 3>& k, const new_rows<Rows, 3>& v) {
    const detail::checker check("contiguous_cache::append");
    detail::check_sequence(check, "b", b, batch());
    this->check_new(check, 1, k, v);
    check_room(check, b, this->rows_of(k));
    write(b, k, v);
  }

  /// Forgets the tokens of sequence b from `length` on, 0 <= length <= end(b).
  void truncate(index_t b, index_t length) {
    const detail::checker check("contiguous_cache::truncate");
    detail::check_sequence(check, "b", b, batch());
    check.require(length >= 0 && length <= end_(b), "length", "0 to the sequence's end", length);
    end_(b) = length;
  }

  /// Forgets everything.
  void clear() noexcept { end_.fill(0); }

 private:
  static detail::cache_shape shape_of(const contiguous_sizes& sizes, const settings& keys, const settings& values) {
    const detail::checker check("contiguous_cache");
    check.require(sizes.capacity >= 0 && sizes.capacity <= detail::most_tokens, "sizes.capacity", "0 to 2^30",
                  sizes.capacity);
    return detail::checked_shape<Rows>(check, sizes, sizes.batch, sizes.capacity, keys, values);
  }

  void check_room(const detail::checker& check, index_t b, index_t rows) const {
    const index_t room = capacity_ - end_(b);
    if (rows > room) [[unlikely]]
      check.fail_with("k (T)",
                      detail::text("at most %lld, the room left in sequence %lld", static_cast<long long>(room),
                                   static_cast<long long>(b))
                          .c_str(),
                      detail::show(rows).c_str());
  }

  void write(index_t b, const new_rows<Rows, 3>& k, const new_rows<Rows, 3>& v) noexcept {
    this->write_rows(detail::contiguous_walk{b}, end_(b), k, v);
    end_(b) += this->rows_of(k);
  }

  index_t capacity_;
  tensor<index_t, 1> end_;
};

HEED_ARCH_END
