/// The keys or the values of a cache: memory, writing, and reading as a source.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/tensor.hpp>
#include <heed/kernel/row_codec.hpp>
#include <heed/kernel/source.hpp>

#include <cmath>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

/// What messages call rows, and the tensors that coded rows consist of.
struct row_names {
  const char *rows, *codes, *scales, *offsets;
};
inline constexpr row_names names_of_k{"k", "k.codes", "k.scales", "k.offsets"};
inline constexpr row_names names_of_v{"v", "v.codes", "v.scales", "v.offsets"};
inline constexpr row_names names_of_memory{"the cache", "the cache", "the cache", "the cache"};

/// f(tensor, name) for each tensor that rows consist of.
template <class T, int Rank, class F>
void for_parts(const view<T, Rank>& rows, const row_names& names, F f) {
  f(rows, names.rows);
}
template <class Code, int Rank, class F>
void for_parts(const coded_view<Code, Rank>& rows, const row_names& names, F f) {
  f(rows.codes, names.codes);
  f(rows.scales, names.scales);
  if (rows.offsets) f(rows.offsets, names.offsets);
}
template <class Rows, int Rank, class F>
void for_parts(const new_rows<Rows, Rank>& rows, const row_names& names, F f) {
  if (rows.as_numbers)
    f(rows.numbers, names.rows);
  else
    for_parts(rows.stored, names, f);
}

/// The axes before the last of a tensor of rows, [entries, heads, rows, ...] or [heads, rows, ...].
struct row_axes {
  index_t entries, heads, rows;
  const char* meaning_of_rows;
};

template <class T, int Rank>
HEED_COLD void check_rows(const checker& check, const view<T, Rank>& rows, const char* name, const row_axes& axes,
                          index_t width, const char* meaning) {
  check.tensor(rows, name);
  if constexpr (Rank == 4) check.extent(rows, name, 0, axes.entries, "as the cache");
  check.extent(rows, name, Rank - 3, axes.heads, "G, as the cache");
  check.extent(rows, name, Rank - 2, axes.rows, axes.meaning_of_rows);
  check.extent(rows, name, Rank - 1, width, meaning);
}

template <class T, int Rank>
void check_stored(const checker& check, const view<T, Rank>& rows, const row_names& names, const row_axes& axes,
                  plain_rows, index_t features) {
  check_rows(check, rows, names.rows, axes, features, "features, as the cache");
}
template <class Code, int Rank, class Rows>
void check_stored(const checker& check, const coded_view<Code, Rank>& rows, const row_names& names,
                  const row_axes& axes, const Rows& format, index_t features) {
  const index_t groups = groups_of(format, features);
  check_rows(check, rows.codes, names.codes, axes, codec<Rows>::bytes(features), "bytes of a row");
  check_rows(check, rows.scales, names.scales, axes, groups, "groups of a row");
  if (format.offset != code_offset::none)
    check_rows(check, rows.offsets, names.offsets, axes, groups, "groups of a row");
  else
    check.require(!rows.offsets, names.offsets, "none, as the settings of the rows say", "a tensor");
}

template <class T, int Rank>
void check_finite(const checker& check, const view<T, Rank>& elements, const char* name) {
  if constexpr (Rank > 1) {
    for (index_t i = 0; i < elements.extent(0); ++i) check_finite(check, elements[i], name);
  } else {
    const T* const row = elements.data();
    bool finite = true;
    for (index_t i = 0; i < elements.extent(0); ++i) finite &= std::isfinite(row[i]);
    for (index_t i = 0; !finite && i < elements.extent(0); ++i)
      check.require(std::isfinite(row[i]), name, "finite numbers", double(row[i]));
  }
}

/// Rows [first, first + count) of `from`, [heads, rows, F], to slots of an entry of `to`.
template <class S, class T>
void copy_rows(const view<const S, 3>& from, index_t first, index_t count, const view<T, 4>& to, index_t entry,
               index_t slot) noexcept {
  for (index_t g = 0; g < from.extent(0); ++g)
    for (index_t i = 0; i < count; ++i) {
      const S* const row = &from(g, first + i, 0);
      T* const copy = &to(entry, g, slot + i, 0);
      for (index_t d = 0; d < from.extent(2); ++d) copy[d] = static_cast<T>(row[d]);
    }
}

/// [entries, heads, slots, width] elements: its own, or the caller's. A copy has copies of its own elements, and shares
/// the caller's.
template <class T>
class slab {
 public:
  slab() noexcept = default;
  explicit slab(const index_t (&extents)[4]) : own_(extents) {}
  explicit slab(const view<T, 4>& given) noexcept : given_(given) {}

  view<T, 4> all() noexcept { return given_ ? given_ : own_.all(); }
  view<const T, 4> all() const noexcept { return given_ ? view<const T, 4>(given_) : own_.all(); }

 private:
  tensor<T, 4> own_;
  view<T, 4> given_;
};

/// What the three slabs of coded rows have of a coded_view, and the one of plain rows of a view.
template <class Rows>
class row_memory_slabs {
  using code = typename Rows::code;

 public:
  row_memory_slabs(index_t entries, index_t heads, index_t slots, index_t features, const Rows& format)
      : codes_({entries, heads, slots, codec<Rows>::bytes(features)}),
        scales_({entries, heads, slots, groups_of(format, features)}) {
    if (format.offset != code_offset::none)
      offsets_ = slab<float>({entries, heads, slots, groups_of(format, features)});
  }
  explicit row_memory_slabs(const coded_view<code>& given) noexcept
      : codes_(given.codes), scales_(given.scales), offsets_(given.offsets) {}

  coded_view<code> all() noexcept { return {codes_.all(), scales_.all(), offsets_.all()}; }
  coded_view<const code> all() const noexcept { return {codes_.all(), scales_.all(), offsets_.all()}; }

 private:
  slab<code> codes_;
  slab<float> scales_, offsets_;
};

template <element S>
class row_memory_slabs<S> : public slab<S> {
 public:
  row_memory_slabs(index_t entries, index_t heads, index_t slots, index_t features, plain_rows)
      : slab<S>({entries, heads, slots, features}) {}
  explicit row_memory_slabs(const view<S, 4>& given) noexcept : slab<S>(given) {}
};

/// Rows of one cache, read only: [entries, heads, slots, F] of a format.
template <class Rows>
struct stored_rows {
  const_row_memory<Rows> memory;
  row_settings<Rows> format;
  index_t features;

  /// [entries, slots, F] of head g.
  auto head(index_t g) const noexcept {
    const auto rows = memory.swap_axes(0, 1)[g];
    if constexpr (element<Rows>)
      return rows;
    else
      return row_decoder<Rows>(rows, format, features);
  }
};

/// Keys and values of one head from a position on; `walk(position, most)` is the row_place of a position.
template <class S, class Walk>
struct cached_rows {
  using storage_type = S;
  view<const S, 3> key_rows, value_rows;
  Walk walk;
  index_t position;
  index_t count;

  row_run<S> keys(index_t first, index_t most) const noexcept { return run(key_rows, first, most); }
  row_run<S> values(index_t first, index_t most) const noexcept { return run(value_rows, first, most); }

 private:
  row_run<S> run(const view<const S, 3>& rows, index_t first, index_t most) const noexcept {
    const row_place at = walk(position + first, most);
    return {&rows(at.entry, at.slot, 0), rows.stride(1), at.count};
  }
};

template <class Rows, class Walk>
struct cached_codes {
  row_decoder<Rows> key_rows, value_rows;
  Walk walk;
  index_t position;
  index_t count;

  bool scaled() const noexcept
    requires(std::is_signed_v<typename Rows::code>)
  {
    return key_rows.scaled() && value_rows.scaled();
  }
  scaled_run<typename Rows::code> scaled_keys(index_t first, index_t most) const noexcept {
    return key_rows.run(walk(position + first, most));
  }
  scaled_run<typename Rows::code> scaled_values(index_t first, index_t most) const noexcept {
    return value_rows.run(walk(position + first, most));
  }
  template <class T, class A>
  void load_keys(index_t first, int n, T* to, index_t pitch) const noexcept {
    load<T, A>(key_rows, position + first, n, to, pitch);
  }
  template <class T, class A>
  void load_values(index_t first, int n, T* to, index_t pitch) const noexcept {
    load<T, A>(value_rows, position + first, n, to, pitch);
  }

 private:
  template <class T, class A>
  void load(const row_decoder<Rows>& rows, index_t from, index_t n, T* to, index_t pitch) const noexcept {
    for (const index_t end = from + n; from < end;) {
      const row_place at = walk(from, end - from);
      rows.template load<T, A>(at.entry, at.slot, at.count, to, pitch);
      from += at.count;
      to += at.count * pitch;
    }
  }
};

/// The source of `count` keys and values of head g from `position` on.
template <class Rows, class Walk>
auto source_of(const stored_rows<Rows>& keys, const stored_rows<Rows>& values, index_t g, const Walk& walk,
               index_t position, index_t count) noexcept {
  if constexpr (element<Rows>)
    return cached_rows<Rows, Walk>{keys.head(g), values.head(g), walk, position, count};
  else
    return cached_codes<Rows, Walk>{keys.head(g), values.head(g), walk, position, count};
}

/// Positions are int, and sums of two of them are too.
inline constexpr index_t most_tokens = index_t(1) << 30;

/// Extents that every cache has.
struct cache_shape {
  index_t entries, heads, slots, features, value_features;
};

inline void check_sequence(const checker& check, const char* name, index_t b, index_t batch) {
  check.require(b >= 0 && b < batch, name, "a sequence of the cache", b);
}

inline void check_format(const checker&, const char*, plain_rows) {}
template <coded_row_format Rows>
void check_format(const checker& check, const char* name, const Rows& format) {
  check.require(format.group >= 0, text("%s.group", name).c_str(), "at least 0", format.group);
}

/// The shape of a cache of these sizes; throws for what no layout can have.
template <class Rows, class Sizes>
cache_shape checked_shape(const checker& check, const Sizes& sizes, index_t entries, index_t slots,
                          const row_settings<Rows>& keys, const row_settings<Rows>& values) {
  const index_t value_features = sizes.value_features.or_default(sizes.features);
  if constexpr (requires { sizes.batch; }) check.require(sizes.batch >= 0, "sizes.batch", "at least 0", sizes.batch);
  check.require(sizes.kv_heads >= 0, "sizes.kv_heads", "at least 0", sizes.kv_heads);
  check.require(sizes.features >= 1, "sizes.features", "at least 1", sizes.features);
  check.require(value_features >= 1, "sizes.value_features", "at least 1", value_features);
  check_format(check, "keys", keys);
  check_format(check, "values", values);
  return {entries, sizes.kv_heads, slots, sizes.features, value_features};
}

/// Rows that can be written: the keys, or the values, of one cache.
template <class Rows>
class row_store {
 public:
  row_store(const cache_shape& shape, index_t features, const row_settings<Rows>& format)
      : memory_(shape.entries, shape.heads, shape.slots, features, format), format_(format), features_(features) {}
  row_store(const row_memory<Rows>& memory, index_t features, const row_settings<Rows>& format) noexcept
      : memory_(memory), format_(format), features_(features) {}

  stored_rows<Rows> rows() const noexcept { return {memory_.all(), format_, features_}; }

  template <int Rank>
  void check_new(const checker& check, const new_rows<Rows, Rank>& rows, const row_names& names,
                 const row_axes& axes) const {
    if (rows.as_numbers)
      check_rows(check, rows.numbers, names.rows, axes, features_, "features, as the cache");
    else
      check_stored(check, rows.stored, names, axes, format_, features_);
    if constexpr (!element<Rows>)
      for_parts(rows, names, [&](const auto& part, const char* name) {
        if constexpr (std::is_floating_point_v<typename std::remove_cvref_t<decltype(part)>::value_type>)
          check_finite(check, part, name);
      });
  }

  template <int Rank>
  void check_apart(const checker& check, const new_rows<Rows, Rank>& rows, const row_names& names) const {
    for_parts(rows, names, [&](const auto& part, const char* name) {
      for_parts(memory_.all(), names_of_memory,
                [&](const auto& mine, const char* its_name) { check.no_overlap(part, name, mine, its_name); });
    });
  }

  /// Rows [first, first + count) of `rows`, to slots of an entry.
  void put(const new_rows<Rows, 3>& rows, index_t first, index_t count, index_t entry, index_t slot) noexcept {
    const auto to = memory_.all();
    if constexpr (element<Rows>) {
      if (rows.as_numbers)
        copy_rows(rows.numbers, first, count, to, entry, slot);
      else
        copy_rows(rows.stored, first, count, to, entry, slot);
    } else {
      if (rows.as_numbers)
        quantise(rows.numbers, first, count, entry, slot);
      else
        copy_codes(rows.stored, first, count, to, entry, slot);
    }
  }

  /// The first `count` slots of an entry, to those of another.
  void copy(index_t from, index_t to, index_t count) noexcept {
    const auto all = memory_.all();
    for_parts(all, names_of_memory, [&](const auto& part, const char*) {
      const view<const typename std::remove_cvref_t<decltype(part)>::value_type, 4> source = part;
      copy_rows(source[from], 0, count, part, to, 0);
    });
  }

 private:
  template <class Code>
  static void copy_codes(const coded_view<const Code, 3>& from, index_t first, index_t count,
                         const coded_view<Code>& to, index_t entry, index_t slot) noexcept {
    copy_rows(from.codes, first, count, to.codes, entry, slot);
    copy_rows(from.scales, first, count, to.scales, entry, slot);
    if (to.offsets) copy_rows(from.offsets, first, count, to.offsets, entry, slot);
  }

  void quantise(const view<const float, 3>& rows, index_t first, index_t count, index_t entry, index_t slot) noexcept {
    const auto to = memory_.all();
    for (index_t g = 0; g < rows.extent(0); ++g)
      for (index_t i = 0; i < count; ++i)
        quantise_row(format_, &rows(g, first + i, 0), features_, &to.codes(entry, g, slot + i, 0),
                     &to.scales(entry, g, slot + i, 0), to.offsets ? &to.offsets(entry, g, slot + i, 0) : nullptr);
  }

  row_memory_slabs<Rows> memory_;
  row_settings<Rows> format_;
  index_t features_;
};

/// Keys and values of a cache, whatever its layout: [entries, heads, slots, D] and [entries, heads, slots, E]. Layouts
/// derive from it and say by a walk where a position is.
template <class Rows>
class cache_rows {
  static_assert(row_format<Rows>,
                "heed: rows of a cache are float, double, heed::bfloat16, heed::float16, heed::int8_rows, "
                "heed::int4_rows or heed::int4_half32_rows");

 public:
  index_t kv_heads() const noexcept { return heads_; }
  index_t features() const noexcept { return keys_.rows().features; }
  index_t value_features() const noexcept { return values_.rows().features; }

 protected:
  using settings = row_settings<Rows>;
  using memory = row_memory<Rows>;

  /// The shape and the settings are checked. Owns its rows.
  cache_rows(const cache_shape& shape, const settings& keys, const settings& values)
      : heads_(shape.heads), keys_(shape, shape.features, keys), values_(shape, shape.value_features, values) {}
  /// The rows are in memory of the caller's.
  cache_rows(const checker& check, const cache_shape& shape, const memory& k, const memory& v, const settings& keys,
             const settings& values)
      : heads_(shape.heads), keys_(k, shape.features, keys), values_(v, shape.value_features, values) {
    const row_axes axes{shape.entries, shape.heads, shape.slots, "slots, as the cache"};
    check_stored(check, k, names_of_k, axes, keys, shape.features);
    check_stored(check, v, names_of_v, axes, values, shape.value_features);
    for_parts(k, names_of_k, [&](const auto& part, const char* name) { check.output(part, name); });
    for_parts(v, names_of_v, [&](const auto& part, const char* name) {
      check.output(part, name);
      for_parts(k, names_of_k,
                [&](const auto& key_part, const char* key_name) { check.no_overlap(part, name, key_part, key_name); });
    });
  }

  /// The checks of append that no layout adds to.
  template <int Rank>
  void check_new(const checker& check, index_t batch, const new_rows<Rows, Rank>& k,
                 const new_rows<Rows, Rank>& v) const {
    const index_t rows = rows_of(k);
    keys_.check_new(check, k, names_of_k, {batch, heads_, rows, "T, as k"});
    values_.check_new(check, v, names_of_v, {batch, heads_, rows, "T, as k"});
    keys_.check_apart(check, k, names_of_k);
    keys_.check_apart(check, v, names_of_v);
    values_.check_apart(check, k, names_of_k);
    values_.check_apart(check, v, names_of_v);
  }

  /// T, the number of rows for each sequence.
  template <int Rank>
  static index_t rows_of(const new_rows<Rows, Rank>& rows) noexcept {
    if (rows.as_numbers) return rows.numbers.extent(Rank - 2);
    if constexpr (element<Rows>)
      return rows.stored.extent(Rank - 2);
    else
      return rows.stored.codes.extent(Rank - 2);
  }

  /// All rows of k and v, to the places of the positions from `position` on.
  template <class Walk>
  void write_rows(const Walk& walk, index_t position, const new_rows<Rows, 3>& k, const new_rows<Rows, 3>& v) noexcept {
    for (index_t first = 0, count = rows_of(k); first < count;) {
      const row_place at = walk(position + first, count - first);
      keys_.put(k, first, at.count, at.entry, at.slot);
      values_.put(v, first, at.count, at.entry, at.slot);
      first += at.count;
    }
  }

  void copy_entry(index_t from, index_t to, index_t slots) noexcept {
    keys_.copy(from, to, slots);
    values_.copy(from, to, slots);
  }

  template <class Walk>
  auto source(index_t g, const Walk& walk, index_t position, index_t count) const noexcept {
    return source_of(keys_.rows(), values_.rows(), g, walk, position, count);
  }

 private:
  index_t heads_;
  row_store<Rows> keys_, values_;
};

}  // namespace detail
HEED_ARCH_END
