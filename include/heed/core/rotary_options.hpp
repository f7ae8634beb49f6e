/// What the rotary operators are told: where tokens stand and which features turn how fast.
#pragma once

#include <heed/config.hpp>
#include <heed/core/executor.hpp>
#include <heed/core/scratch.hpp>
#include <heed/core/setting.hpp>
#include <heed/core/view.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

HEED_BEGIN

/// Which two features form a pair.
enum class rotary_layout {
  half_split,  ///< t and t + R/2 (GPT-NeoX, Llama as published by Hugging Face)
  interleaved  ///< 2t and 2t + 1 (GPT-J, the original Llama)
};

/// Non-owning positions of tokens: 32- or 64-bit integers, or double for fractions of a position. Negative ones, gaps
/// and repetitions are legal.
///
///     heed::rotary_positions(list)                         // anything contiguous with data() and size(): [N]
///     heed::rotary_positions(view)                         // [N], the same in all batch entries, or [B,N]
///     heed::rotary_positions::counting_from(first)         // first, first + 1, ...
///     heed::rotary_positions::everywhere(position)         // the same for all tokens
class rotary_positions {
 public:
  HEED_INLINE static constexpr rotary_positions counting_from(double first) noexcept { return {first, 1.0}; }
  HEED_INLINE static constexpr rotary_positions everywhere(double position) noexcept { return {position, 0.0}; }

  template <class C>
    requires(!std::same_as<C, rotary_positions>) && (requires { typename view_of_t<const C>; })
  HEED_INLINE rotary_positions(const C& positions) noexcept {
    take(view_traits<const C>::make(positions));
  }

  template <class C>
    requires(!requires { typename view_of_t<const C>; }) && (requires(const C& c) {
              { *c.data() } -> std::convertible_to<double>;
              { c.size() } -> std::convertible_to<std::size_t>;
            })
  HEED_INLINE rotary_positions(const C& positions) noexcept {
    take(view(positions.data(), {static_cast<index_t>(positions.size())}));
  }

  template <class P, std::size_t Count>
  HEED_INLINE rotary_positions(const P (&positions)[Count]) noexcept {
    take(view<const P, 1>(positions, {static_cast<index_t>(Count)}));
  }

  /// 0: computed from the index, 1: [N], 2: [B,N].
  HEED_INLINE constexpr int rank() const noexcept { return rank_; }

  /// The bytes of positions, [1 or B, N, bytes of a number]. Empty for rank 0.
  HEED_INLINE constexpr view<const std::byte, 3> memory() const noexcept {
    const index_t bytes = kind_ == kind::int32 ? 4 : 8;
    return {static_cast<const std::byte*>(data_),
            {extent_[0], extent_[1], bytes},
            {stride_[0] * bytes, stride_[1] * bytes, 1}};
  }

  HEED_INLINE constexpr double at(index_t b, index_t i) const noexcept {
    const index_t offset = b * stride_[0] + i * stride_[1];
    switch (kind_) {
      case kind::int32:
        return static_cast<double>(static_cast<const std::int32_t*>(data_)[offset]);
      case kind::int64:
        return static_cast<double>(static_cast<const std::int64_t*>(data_)[offset]);
      case kind::real:
        return static_cast<const double*>(data_)[offset];
      case kind::computed:
        break;
    }
    return first_ + step_ * static_cast<double>(i);
  }

 private:
  enum class kind { computed, int32, int64, real };

  HEED_INLINE constexpr rotary_positions(double first, double step) noexcept : first_(first), step_(step) {}

  template <class P, int Rank>
  HEED_INLINE void take(const view<P, Rank>& positions) noexcept {
    using number = std::remove_const_t<P>;
    static_assert(std::same_as<number, double> || (std::signed_integral<number> && (sizeof(P) == 4 || sizeof(P) == 8)),
                  "heed::rotary_positions: positions must be 32- or 64-bit signed integers or double");
    static_assert(Rank == 1 || Rank == 2, "heed::rotary_positions: a view of positions must be [N] or [B,N]");
    kind_ = std::same_as<number, double> ? kind::real : sizeof(P) == 4 ? kind::int32 : kind::int64;
    rank_ = Rank;
    data_ = positions.data();
    extent_[0] = Rank == 2 ? positions.extent(0) : 1;
    stride_[0] = Rank == 2 ? positions.stride(0) : 0;
    extent_[1] = positions.extent(Rank - 1);
    stride_[1] = positions.stride(Rank - 1);
  }

  kind kind_ = kind::computed;
  int rank_ = 0;
  const void* data_ = nullptr;
  index_t extent_[2] = {};
  index_t stride_[2] = {};
  double first_ = 0, step_ = 0;
};

/// Options of rotary_forward and rotary_backward. An aggregate: name what you need, in this order.
///
///     heed::rotary_forward(q, positions, q, {.base = 500000, .layout = heed::rotary_layout::interleaved});
struct rotary_options {
  /// Pair t turns by base^(-2t/R) radians per position. Finite, > 0.
  double base = 10000;
  /// R, the number of features that turn, from the first on: even, 2..D. Default D. The others are copied.
  setting<index_t> features{};
  rotary_layout layout = rotary_layout::half_split;
  /// Multiplies every position: 1 / factor interpolates positions. Finite.
  double position_scale = 1;
  /// Memory for the call; rotary_scratch_bytes tells how much. Default: memory that
  /// the calling thread keeps (release_scratch).
  scratch_view scratch{};
  /// Who runs the tasks. Default: OpenMP if compiled with it, else the calling thread.
  executor_ref executor{};
};

HEED_END
