/// Codes and the numbers they stand for.
#pragma once

#include <heed/core/row_formats.hpp>
#include <heed/kernel/source.hpp>
#include <heed/simd/convert.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>

HEED_ARCH_BEGIN
namespace detail {

/// Of a coded row format: how many bytes a row has, the code of the number 0, the largest distance from it that the
/// quantiser uses, element i of a row, and one register of elements from a multiple of its lanes on.
template <class Rows>
struct codec;

template <>
struct codec<int8_rows> {
  static constexpr int zero = 0;
  static constexpr int reach = 127;

  static constexpr index_t bytes(index_t features) noexcept { return features; }
  static int get(const std::int8_t* row, index_t i) noexcept { return row[i]; }
  static void put(std::int8_t* row, index_t i, int code) noexcept { row[i] = static_cast<std::int8_t>(code); }
  template <class T, class A>
  HEED_INLINE static pack<T, A> load(const std::int8_t* row, index_t i) noexcept {
    return load_as<T, A>(row + i);
  }
};

/// Two codes to a byte. `Place` says where: byte(i) and shift(i).
template <class Place>
struct nibble_codec {
  static constexpr int zero = 8;
  static constexpr int reach = 7;

  static int get(const std::uint8_t* row, index_t i) noexcept { return (row[Place::byte(i)] >> Place::shift(i)) & 15; }
  static void put(std::uint8_t* row, index_t i, int code) noexcept {
    std::uint8_t& byte = row[Place::byte(i)];
    byte = static_cast<std::uint8_t>((byte & (0xf0 >> Place::shift(i))) | (code << Place::shift(i)));
  }
};

template <>
struct codec<int4_rows> : nibble_codec<codec<int4_rows>> {
  static constexpr index_t bytes(index_t features) noexcept { return (features + 1) / 2; }
  static constexpr index_t byte(index_t i) noexcept { return i >> 1; }
  static constexpr int shift(index_t i) noexcept { return static_cast<int>(i & 1) * 4; }
  template <class T, class A>
  HEED_INLINE static pack<T, A> load(const std::uint8_t* row, index_t i) noexcept {
    return load_nibble_pairs<T, A>(row + byte(i));
  }
};

template <>
struct codec<int4_half32_rows> : nibble_codec<codec<int4_half32_rows>> {
  static constexpr index_t bytes(index_t features) noexcept { return (features + 31) / 32 * 16; }
  static constexpr index_t byte(index_t i) noexcept { return (i >> 5) * 16 + (i & 15); }
  static constexpr int shift(index_t i) noexcept { return static_cast<int>(i & 16) / 4; }
  template <class T, class A>
  HEED_INLINE static pack<T, A> load(const std::uint8_t* row, index_t i) noexcept {
    return load_nibbles<T, A>(row + byte(i), shift(i));
  }
};

/// The length of a group of features, and how many a row has.
template <class Rows>
index_t group_of(const Rows& format, index_t features) noexcept {
  return format.group == 0 ? features : format.group;
}
template <class Rows>
index_t groups_of(const Rows& format, index_t features) noexcept {
  return (features + group_of(format, features) - 1) / group_of(format, features);
}

/// The number behind a code, for packs and for numbers.
template <code_offset Offset, class X>
HEED_INLINE X decoded(X code, X scale, X offset) noexcept {
  if constexpr (Offset == code_offset::none)
    return code * scale;
  else if constexpr (Offset == code_offset::zero)
    return (code - offset) * scale;
  else if constexpr (std::is_arithmetic_v<X>)
    return code * scale + offset;
  else
    return fma(code, scale, offset);
}

/// Where the row of a position is, and how many of the following ones come after it in the same entry.
struct row_place {
  index_t entry, slot, count;
};

/// Coded rows of one head, [entries, slots, F], as rows of T.
template <class Rows>
class row_decoder {
  using C = codec<Rows>;
  using code = typename Rows::code;

 public:
  row_decoder(const coded_view<const code, 3>& rows, const Rows& format, index_t features) noexcept
      : rows_(rows), features_(features), group_(group_of(format, features)), offset_(format.offset) {}

  /// Whether a row is its codes times one number.
  bool scaled() const noexcept { return offset_ == code_offset::none && group_ >= features_; }
  scaled_run<code> run(const row_place& at) const noexcept {
    return {&rows_.codes(at.entry, at.slot, 0),
            rows_.codes.stride(1),
            at.count,
            {&rows_.scales(at.entry, at.slot, 0), rows_.scales.stride(1)}};
  }

  /// Rows [slot, slot + count) of an entry to `to`, aligned, `pitch` elements apart, filled up with zeros to a whole
  /// vector.
  template <class T, class A>
  void load(index_t entry, index_t slot, index_t count, T* to, index_t pitch) const noexcept {
    switch (offset_) {
      case code_offset::none:
        // Codes of 4 bits are stored without sign: their zero point is a constant.
        if constexpr (C::zero == 0)
          return load_rows<T, A, code_offset::none>(entry, slot, count, to, pitch);
        else
          return load_rows<T, A, code_offset::zero>(entry, slot, count, to, pitch);
      case code_offset::zero:
        return load_rows<T, A, code_offset::zero>(entry, slot, count, to, pitch);
      case code_offset::minimum:
        return load_rows<T, A, code_offset::minimum>(entry, slot, count, to, pitch);
    }
  }

 private:
  template <class T, class A, code_offset Offset>
  void load_rows(index_t entry, index_t slot, index_t count, T* to, index_t pitch) const noexcept {
    for (const index_t end = slot + count; slot < end; ++slot, to += pitch)
      load_row<T, A, Offset>(&rows_.codes(entry, slot, 0), &rows_.scales(entry, slot, 0),
                             rows_.offsets ? &rows_.offsets(entry, slot, 0) : nullptr, to);
  }

  template <class T, class A, code_offset Offset>
  HEED_INLINE void load_row(const code* codes, const float* scales, const float* offsets, T* to) const noexcept {
    using P = pack<T, A>;
    const auto offset_of = [offsets](index_t g) { return offsets != nullptr ? T(offsets[g]) : T(C::zero); };
    // Whole vectors, as long as each lies in one group.
    const bool whole_vectors = group_ % P::lanes == 0 || group_ >= features_;
    const index_t vector_end = whole_vectors ? features_ / P::lanes * P::lanes : 0;
    index_t i = 0;
    for (index_t g = 0; i < vector_end; ++g) {
      const P scale(scales[g]), offset(offset_of(g));
      for (const index_t end = std::min(vector_end, i + group_); i < end; i += P::lanes)
        decoded<Offset>(C::template load<T, A>(codes, i), scale, offset).store_aligned(to + i);
    }
    for (; i < features_; ++i) {
      const index_t g = i / group_;
      to[i] = decoded<Offset>(T(C::get(codes, i)), T(scales[g]), offset_of(g));
    }
    for (; i % P::lanes != 0; ++i) to[i] = T(0);
  }

  coded_view<const code, 3> rows_;
  index_t features_, group_;
  code_offset offset_;
};

/// Codes for a row of finite numbers: the largest of a group in magnitude gets the code farthest from zero, the others
/// the nearest one, ties to even.
template <class Rows>
void quantise_row(const Rows& format, const float* row, index_t features, typename Rows::code* codes, float* scales,
                  float* offsets) noexcept {
  using C = codec<Rows>;
  std::fill_n(codes, C::bytes(features), typename Rows::code(0));
  const index_t group = group_of(format, features);
  for (index_t begin = 0, g = 0; begin < features; begin += group, ++g) {
    const index_t end = std::min(features, begin + group);
    float largest = 0;
    for (index_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(row[i]));
    const float scale = largest / C::reach;
    for (index_t i = begin; i < end; ++i) {
      const float step = scale > 0 ? std::nearbyint(row[i] / scale) : 0.0f;
      C::put(codes, i, C::zero + static_cast<int>(std::clamp(step, -float(C::reach), float(C::reach))));
    }
    scales[g] = scale;
    if (format.offset == code_offset::zero) offsets[g] = C::zero;
    if (format.offset == code_offset::minimum) offsets[g] = -scale * C::zero;
  }
}

}  // namespace detail
HEED_ARCH_END
