/// What both passes of efficient attention are made of: its features, its contexts, and how a call is cut.
#pragma once

#include <heed/core/efficient_options.hpp>
#include <heed/core/scratch.hpp>
#include <heed/kernel/chunk_rows.hpp>
#include <heed/simd/transpose.hpp>

#include <algorithm>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// Rows that are worked on together.
inline constexpr index_t efficient_block = 64;

/// The inputs of a call; all of them checked.
template <class S>
struct efficient_call {
  view<const S, 4> q, k, v;  // [B,H,N,D], [B,G,M,D], [B,G,M,E]
  efficient_mode mode;
  sequence_lengths lengths;

  index_t features() const noexcept { return q.extent(3); }
  index_t value_features() const noexcept { return v.extent(3); }
  index_t queries() const noexcept { return q.extent(2); }
  index_t keys(index_t b) const noexcept { return lengths ? lengths.at(b) : k.extent(2); }
  bool softmax() const noexcept { return mode == efficient_mode::softmax; }

  /// One context for each (batch entry, kv head), and the query heads that read it.
  index_t contexts() const noexcept { return k.extent(0) * k.extent(1); }
  index_t heads() const noexcept { return q.extent(1) / k.extent(1); }
};

template <class S>
row_span<S> rows_at(const view<S, 4>& tensor, index_t b, index_t h, index_t row) noexcept {
  return {tensor.data() + b * tensor.stride(0) + h * tensor.stride(1) + row * tensor.stride(2), tensor.stride(2)};
}

/// Rows [first, first + count) of one head.
struct block_of_rows {
  index_t head, first, count;
};

/// The rows of a few heads in blocks, dealt out to parts by shapes alone. Each part leaves a sum of its own.
struct row_parts {
  index_t heads, rows, parts;

  row_parts(index_t heads_of_context, index_t rows_of_head, index_t contexts) noexcept
      : heads(heads_of_context), rows(rows_of_head) {
    constexpr index_t enough_tasks = 32, least_blocks = 8;
    const index_t wanted = (enough_tasks + contexts - 1) / std::max<index_t>(1, contexts);
    parts = std::clamp<index_t>((blocks() + least_blocks - 1) / least_blocks, 1, std::max<index_t>(1, wanted));
  }

  index_t blocks_of_head() const noexcept { return (rows + efficient_block - 1) / efficient_block; }
  index_t blocks() const noexcept { return heads * blocks_of_head(); }

  /// f(block_of_rows) for the blocks of a part, in order.
  template <class F>
  void for_blocks_of(index_t part, F f) const {
    for (index_t i = blocks() * part / parts; i < blocks() * (part + 1) / parts; ++i) {
      const index_t first = i % blocks_of_head() * efficient_block;
      f(block_of_rows{i / blocks_of_head(), first, std::min(efficient_block, rows - first)});
    }
  }
};

/// to[d][e] += sum_j weights[j][d] values[j][e]. A block has a sum of its own, so that long sums stay accurate.
template <class T, class A>
HEED_NOINLINE void add_context(row_span<const T> weights, row_span<const T> values, index_t count, index_t features,
                               index_t value_features, row_span<T> to) noexcept {
  using P = pack<T, A>;
  prefetcher nothing;
  const auto add = [&](index_t d, int v, P sum) {
    T* const at = to[d] + v * P::lanes;
    (P::load_aligned(at) + sum).store_aligned(at);
  };
  sum_product<T, A>(
      {0, features}, {0, value_features}, [](index_t, int) { return P(T(0)); },
      transposed_times(weights, values, count), add, nothing);
}

/// to[row] = sum_i rows[row][i] matrix[i] for a block, whole vectors.
template <class T, class A>
HEED_NOINLINE void multiply_rows(row_span<const T> rows, index_t count, row_span<const T> matrix, index_t depth,
                                 index_t features, row_span<T> to) noexcept {
  using P = pack<T, A>;
  prefetcher nothing;
  const auto store = [&](index_t row, int v, P sum) { sum.store(to[row] + v * P::lanes); };
  sum_product<T, A>(
      {0, count}, {0, features}, [](index_t, int) { return P(T(0)); }, times(rows, matrix, depth), store, nothing);
}

/// to[i] = number(i, d, from[i]) for a block, vector by vector.
template <class T, class A, class S, class Number>
HEED_INLINE void store_each(row_span<const T> from, index_t count, index_t features, row_span<S> to,
                            const Number& number) noexcept {
  for (index_t i = 0; i < count; ++i)
    for_vectors<T, A>(features, [&](index_t d, int some) {
      store_some(to[i] + d, number(i, d, pack<T, A>::load_aligned(from[i] + d)), some);
    });
}

/// e^x for x <= 0 and x = NaN.
template <class T, class A>
HEED_INLINE pack<T, A> exp_nonpositive(pack<T, A> x) noexcept {
  return exp2_bounded<precision::weight>(x * pack<T, A>(log2_e<T>));
}

/// What keys are compared with: their maximum, or 0 if there is none but -inf.
template <class T, class A>
HEED_INLINE pack<T, A> finite_reference(pack<T, A> top) noexcept {
  return select(top == pack<T, A>(-std::numeric_limits<T>::infinity()), pack<T, A>(T(0)), top);
}

/// 1 / x, and 0 for 0: the sum of no keys.
template <class T, class A>
HEED_INLINE pack<T, A> inverse_or_zero(pack<T, A> x) noexcept {
  const pack<T, A> zero(T(0));
  return select(x == zero, zero, pack<T, A>(T(1)) / x);
}

/// A vector's first `count` lanes, and `fill` in the others.
template <class T, class A>
HEED_INLINE pack<T, A> first_lanes(pack<T, A> x, int count, T fill) noexcept {
  if (count == lanes<T, A>) return x;
  alignas(64) T lane[lanes<T, A>];
  x.store_aligned(lane);
  std::fill(lane + count, lane + lanes<T, A>, fill);
  return pack<T, A>::load_aligned(lane);
}

/// rows[i][d] = e^(rows[i][d] - max over d), and inverse[i] = 1 / the sum of that. Beyond the features: 0.
template <class T, class A>
HEED_NOINLINE void exponentiate_rows(row_span<T> rows, index_t count, index_t features, T* inverse) noexcept {
  using P = pack<T, A>;
  constexpr int width = P::lanes;
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  for (index_t first = 0; first < count; first += width) {
    const int some = static_cast<int>(std::min<index_t>(width, count - first));
    P each[width];
    alignas(64) T top[width];
    for (int i = 0; i < width; ++i) each[i] = P(nothing);
    for (int i = 0; i < some; ++i)
      for_vectors<T, A>(features, [&](index_t d, int n) {
        each[i] = max(first_lanes(P::load_aligned(rows[first + i] + d), n, nothing), each[i]);
      });
    largest_each(each).store_aligned(top);
    for (int i = 0; i < width; ++i) each[i] = P(T(1));
    for (int i = 0; i < some; ++i) {
      P sum(T(0));
      for_vectors<T, A>(features, [&](index_t d, int n) {
        T* const at = rows[first + i] + d;
        const P p = exp_nonpositive(first_lanes(P::load_aligned(at) - P(top[i]), n, nothing));
        p.store_aligned(at);
        sum += p;
      });
      each[i] = sum;
    }
    (P(T(1)) / sum_each(each)).store_aligned(inverse + first);
  }
}

/// to[e][d] = from[d][e], zeros up to the end of the last vector.
template <class T, class A>
void transpose_context(row_span<const T> from, index_t features, index_t value_features, row_span<T> to) noexcept {
  const index_t whole = round_up(features, lanes<T, A>);
  for (index_t e = 0; e < value_features; ++e) {
    for (index_t d = 0; d < features; ++d) to[e][d] = from[d][e];
    std::fill(to[e] + features, to[e] + whole, T(0));
  }
}

template <class T, class A>
void clear_rows(row_span<T> rows, index_t count, index_t features) noexcept {
  for (index_t i = 0; i < count; ++i) std::fill_n(rows[i], round_up(features, lanes<T, A>), T(0));
}

}  // namespace detail
HEED_ARCH_END
