/// What a cache must hold, kept in plain vectors and written from the definition of the row formats, and the reading of
/// a cache through what operators see of it.
#pragma once

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/random.hpp"

#include <heed/cache.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

namespace cache_test {

using heed::code_offset;
using heed::index_t;
using heed::view;
using support::draw;
using support::random_engine;

/// A number of a row, and how far from it a result may be: 0 means equal, once rounded to the type of the result.
struct number {
  double value;
  double slack = 0;
};
using row = std::vector<number>;

/// Keys and values of one token, for each head.
struct token {
  std::vector<row> k, v;
};
/// Of one sequence, from position 0 on.
using history = std::vector<token>;

template <class Rows>
constexpr bool is_plain = heed::element<Rows>;
template <class Rows>
constexpr bool is_int8 = std::is_same_v<Rows, heed::int8_rows>;

template <class Rows>
heed::row_settings<Rows> draw_settings(random_engine& random) {
  if constexpr (is_plain<Rows>) {
    return {};
  } else {
    constexpr index_t groups[] = {0, 1, 3, 8, 16, 32, 64};
    return {groups[draw(random, 0, 6)], static_cast<code_offset>(draw(random, 0, 2))};
  }
}

inline index_t groups_of(index_t group, index_t features) { return group == 0 ? 1 : (features + group - 1) / group; }
template <class Rows>
index_t bytes_of(index_t features) {
  if (is_int8<Rows>) return features;
  return std::is_same_v<Rows, heed::int4_rows> ? (features + 1) / 2 : (features + 31) / 32 * 16;
}

template <class Rows>
int code_at(const std::uint8_t* bytes, index_t i) {
  if (is_int8<Rows>) return static_cast<std::int8_t>(bytes[i]);
  if (std::is_same_v<Rows, heed::int4_rows>) return i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
  const index_t block = i / 32, t = i % 32;
  return t < 16 ? bytes[16 * block + t] & 15 : bytes[16 * block + t - 16] >> 4;
}

inline number decode(code_offset kind, int code, double scale, double offset, int code_of_zero) {
  if (kind == code_offset::none) return {scale * (code - code_of_zero)};
  if (kind == code_offset::zero) return {scale * (code - offset)};
  // The product may be rounded before the sum.
  const double x = scale * code + offset;
  return {x, 0x1p-23 * (std::fabs(scale * code) + std::fabs(x))};
}

/// What a row of floats is once it is stored.
template <class Rows>
row stored(const float* x, index_t features, const heed::row_settings<Rows>& format) {
  row result;
  if constexpr (is_plain<Rows>) {
    for (index_t d = 0; d < features; ++d) result.push_back({static_cast<double>(static_cast<Rows>(x[d]))});
  } else {
    const float most = is_int8<Rows> ? 127 : 7;
    const index_t group = format.group == 0 ? features : format.group;
    for (index_t d = 0; d < features; ++d) {
      const index_t begin = d / group * group;
      float largest = 0;
      for (index_t i = begin; i < std::min(features, begin + group); ++i) largest = std::fmax(largest, std::fabs(x[i]));
      const float scale = largest / most;
      const float c = scale == 0 ? 0 : std::fmin(most, std::fmax(-most, std::rint(x[d] / scale)));
      const int zero = is_int8<Rows> ? 0 : 8;
      const double offset = format.offset == code_offset::minimum ? -double(scale) * zero : zero;
      result.push_back(decode(format.offset, static_cast<int>(c) + zero, scale, offset, zero));
    }
  }
  return result;
}

/// Memory of rows [X,G,slots,F] with gaps, full of what would show in a result: NaN.
template <class Rows>
class pool {
 public:
  pool(const index_t (&extents)[4], index_t features, heed::plain_rows, support::layout where)
      : rows_({extents[0], extents[1], extents[2], features}, where, nan, nan) {}

  view<Rows, 4> memory() { return rows_.all(); }
  bool intact() const { return rows_.intact(); }
  void poison(index_t entry, index_t slot) {
    for (index_t g = 0; g < rows_.all().extent(1); ++g)
      for (index_t d = 0; d < rows_.all().extent(3); ++d) rows_.all()(entry, g, slot, d) = nan;
  }

 private:
  static constexpr Rows nan = support::quiet_nan<Rows>;
  support::guarded<Rows, 4> rows_;
};

template <heed::coded_row_format Rows>
class pool<Rows> {
 public:
  using code = typename Rows::code;

  pool(const index_t (&extents)[4], index_t features, const Rows& format, support::layout where)
      : codes_({extents[0], extents[1], extents[2], bytes_of<Rows>(features)}, where, code(85), code(85)),
        scales_({extents[0], extents[1], extents[2], groups_of(format.group, features)}, where, nan, nan) {
    if (format.offset != code_offset::none)
      offsets_ = support::guarded<float, 4>({extents[0], extents[1], extents[2], groups_of(format.group, features)},
                                            where, nan, nan);
  }

  heed::coded_view<code> memory() {
    return {codes_.all(), scales_.all(), offsets_ ? offsets_->all() : view<float, 4>{}};
  }
  bool intact() const { return codes_.intact() && scales_.intact() && (!offsets_ || offsets_->intact()); }
  void poison(index_t entry, index_t slot) {
    for (index_t g = 0; g < scales_.all().extent(1); ++g)
      for (index_t i = 0; i < scales_.all().extent(3); ++i) scales_.all()(entry, g, slot, i) = nan;
  }

 private:
  static constexpr float nan = support::quiet_nan<float>;
  support::guarded<code, 4> codes_;
  support::guarded<float, 4> scales_;
  std::optional<support::guarded<float, 4>> offsets_;
};

template <class T, int Rank, class F>
void for_elements(const view<T, Rank>& t, F f) {
  for (index_t i = 0; i < t.extent(0); ++i) {
    if constexpr (Rank == 1)
      f(t[i]);
    else
      for_elements(t[i], f);
  }
}

/// Every byte of a tensor.
template <class T, int Rank>
void add_bytes(std::vector<unsigned char>& to, const view<T, Rank>& t) {
  for_elements(t, [&](const T& x) {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(&x);
    to.insert(to.end(), bytes, bytes + sizeof(T));
  });
}
template <class Code>
void add_bytes(std::vector<unsigned char>& to, const heed::coded_view<Code>& rows) {
  add_bytes(to, rows.codes);
  add_bytes(to, rows.scales);
  add_bytes(to, rows.offsets);
}

/// Rows [B,G,T,F] for append, as floats or as the cache stores them, and what they are once they are stored.
template <class Rows>
class fresh_rows {
 public:
  fresh_rows(const index_t (&extents)[4], const heed::row_settings<Rows>& format, bool as_numbers,
             random_engine& random)
      : format_(format),
        as_numbers_(as_numbers),
        numbers_(extents, support::layouts[draw(random, 0, 3)], 0, -1),
        stored_({extents[0], extents[1], extents[2]}, extents[3], format, support::layouts[draw(random, 0, 3)]) {
    fill_numbers(random);
    if (!as_numbers) fill_stored(random);
  }

  /// f(rows): what append is called with.
  template <class F>
  void with(F f) {
    if (as_numbers_)
      f(numbers_.all());
    else
      f(stored_.memory());
  }

  row at(index_t b, index_t g, index_t t) {
    const index_t features = numbers_.all().extent(3);
    if (as_numbers_) return stored<Rows>(&numbers_.all()(b, g, t, 0), features, format_);
    row result;
    const auto memory = stored_.memory();
    for (index_t d = 0; d < features; ++d) {
      if constexpr (is_plain<Rows>) {
        result.push_back({static_cast<double>(memory(b, g, t, d))});
      } else {
        const index_t group = format_.group == 0 ? 0 : d / format_.group;
        const auto* const bytes = reinterpret_cast<const std::uint8_t*>(&memory.codes(b, g, t, 0));
        const double offset = format_.offset == code_offset::none ? 0 : memory.offsets(b, g, t, group);
        result.push_back(decode(format_.offset, code_at<Rows>(bytes, d), memory.scales(b, g, t, group), offset,
                                is_int8<Rows> ? 0 : 8));
      }
    }
    return result;
  }

 private:
  /// Some rows of zeros, some numbers that all codes of a row are smaller than.
  void fill_numbers(random_engine& random) {
    std::normal_distribution<float> normal;
    for_elements(numbers_.all(), [&](float& x) { x = normal(random); });
    for (index_t b = 0; b < numbers_.all().extent(0); ++b)
      for (index_t g = 0; g < numbers_.all().extent(1); ++g)
        for (index_t t = 0; t < numbers_.all().extent(2); ++t) {
          const auto x = numbers_.all()[b][g][t];
          const auto kind = draw(random, 0, 5);
          for (index_t d = 0; d < x.extent(0); ++d) x[d] = kind == 0 ? 0.0f : kind == 1 && d > 0 ? 1e-4f * x[d] : x[d];
        }
  }

  void fill_stored(random_engine& random) {
    std::normal_distribution<double> normal;
    if constexpr (is_plain<Rows>) {
      for_elements(stored_.memory(), [&](Rows& x) { x = Rows(normal(random)); });
    } else {
      const auto memory = stored_.memory();
      for_elements(memory.codes, [&](auto& c) { c = static_cast<typename Rows::code>(random()); });
      for_elements(memory.scales, [&](float& s) { s = static_cast<float>(normal(random)); });
      for_elements(memory.offsets, [&](float& o) {
        o = format_.offset == code_offset::zero ? static_cast<float>(draw(random, -128, 127))
                                                : static_cast<float>(normal(random));
      });
    }
  }

  heed::row_settings<Rows> format_;
  bool as_numbers_;
  support::guarded<float, 4> numbers_;
  pool<Rows> stored_;
};

template <class T>
bool same(T got, const number& expected) {
  if (expected.slack == 0) return got == static_cast<T>(expected.value);
  return std::fabs(static_cast<double>(got) - expected.value) <= expected.slack;
}

/// Calls f(first, count) for runs that make up `total` rows: all at once, one by one, or as it comes.
template <class F>
void in_runs(index_t total, random_engine& random, F f) {
  const index_t longest = draw(random, 0, 2) == 0 ? total : draw(random, 1, 5);
  for (index_t first = 0; first < total;) {
    const index_t count = std::min(longest, total - first);
    f(first, count);
    first += count;
  }
}

/// Whether rows [first, first + n) that get(row, most) gives, run by run, are those expected(row).
template <class Get, class Expected>
bool runs_hold(index_t first, index_t n, index_t features, Get get, Expected expected) {
  bool right = true;
  for (index_t i = 0; i < n;) {
    const auto run = get(first + i, n - i);
    if (run.count < 1 || run.count > n - i) return false;
    for (index_t j = 0; j < run.count; ++j)
      for (index_t d = 0; d < features; ++d)
        right = right && static_cast<double>(run.data[j * run.stride + d]) ==
                             expected(first + i + j)[static_cast<std::size_t>(d)].value;
    i += run.count;
  }
  return right;
}

/// Whether load(first, n, to, pitch) writes n rows, fills them up with zeros to whole vectors, and writes no more.
template <class T, class A, class Load, class Expected>
bool loads_hold(index_t first, index_t n, index_t features, Load load, Expected expected) {
  constexpr index_t line = 64 / sizeof(T), lanes = heed::pack<T, A>::lanes;
  const index_t padded = (features + lanes - 1) / lanes * lanes, pitch = (features + line - 1) / line * line + line;
  auto to = heed::tensor<T, 2>::full({n + 1, pitch}, T(-77));
  load(first, n, to.data(), pitch);
  bool right = true;
  for (index_t i = 0; i <= n; ++i)
    for (index_t d = 0; d < pitch; ++d) {
      const T x = to(i, d);
      if (i == n || d >= padded)
        right = right && x == T(-77);
      else if (d >= features)
        right = right && x == T(0);
      else
        right = right && same(x, expected(first + i)[static_cast<std::size_t>(d)]);
    }
  return right;
}

/// Whether a source holds exactly the tokens [begin, end) of a sequence. Coded rows are read as T with the
/// instructions of A.
template <class T, class A = heed::default_arch, class Source>
bool source_holds(const Source& source, const history& tokens, index_t begin, index_t end, std::size_t g,
                  index_t features, index_t value_features, random_engine& random) {
  if (source.count != end - begin) return false;
  const auto key = [&](index_t i) -> const row& { return tokens[static_cast<std::size_t>(begin + i)].k[g]; };
  const auto value = [&](index_t i) -> const row& { return tokens[static_cast<std::size_t>(begin + i)].v[g]; };
  bool right = true;
  in_runs(source.count, random, [&](index_t first, index_t n) {
    if constexpr (heed::detail::row_source<Source>) {
      right = right && runs_hold(first, n, features, [&](auto i, auto most) { return source.keys(i, most); }, key);
      right = right &&
              runs_hold(first, n, value_features, [&](auto i, auto most) { return source.values(i, most); }, value);
    } else {
      right = right && loads_hold<T, A>(
                           first, n, features,
                           [&](index_t i, index_t count, T* to, index_t pitch) {
                             source.template load_keys<T, A>(i, static_cast<int>(count), to, pitch);
                           },
                           key);
      right = right && loads_hold<T, A>(
                           first, n, value_features,
                           [&](index_t i, index_t count, T* to, index_t pitch) {
                             source.template load_values<T, A>(i, static_cast<int>(count), to, pitch);
                           },
                           value);
    }
  });
  return right;
}

}  // namespace cache_test
