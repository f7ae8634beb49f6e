/// One token's write to a matrix state and the reads of its query heads, in one pass over the state.
#pragma once

#include <heed/kernel/chunk_decay.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a token does to a state of `rows` x `columns`: each element is multiplied by the gates of its row and column,
/// then row[i] * column[e] is added. Arrays are whole vectors long.
template <class T>
struct state_write {
  const T* row;
  const T* column;
  const T* row_gate;     ///< or null
  const T* column_gate;  ///< or null
};

/// Query heads, and vectors of columns, whose sums are in registers together.
template <class T, class A>
struct state_step_shape {
  static constexpr bool many_registers = register_count<A> >= 32;
  static constexpr int heads = 4;
  static constexpr int vectors(int of_heads) {
    return of_heads == 1 ? (many_registers ? 8 : 4) : many_registers ? 4 : 1;
  }
};

enum class gate_side { none, rows, columns };

/// sums[h][e] = sum_i reads[h][i] * state[i][e] for `Heads` heads and `Vectors` whole vectors of columns, which are
/// written first if told so.
template <int Heads, int Vectors, bool Write, gate_side Gates, class T, class A>
HEED_NOINLINE void step_columns(T* state, index_t stride, index_t rows, const state_write<T>& write, index_t column,
                                const T* reads, index_t reads_pitch, T* sums, index_t sums_pitch) noexcept {
  using P = pack<T, A>;
  P sum[Heads][Vectors], added[Vectors], gate[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    if constexpr (Write) added[v] = P::load_aligned(write.column + column + v * P::lanes);
    if constexpr (Write && Gates == gate_side::columns)
      gate[v] = P::load_aligned(write.column_gate + column + v * P::lanes);
  }
  T* at = state + column;
  for (index_t i = 0; i < rows; ++i, at += stride) {
    P x[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      x[v] = P::load(at + v * P::lanes);
      if constexpr (Write) {
        if constexpr (Gates == gate_side::rows) x[v] = without_negligible(x[v] * P(write.row_gate[i]));
        if constexpr (Gates == gate_side::columns) x[v] = without_negligible(x[v] * gate[v]);
        x[v] = fma(P(write.row[i]), added[v], x[v]);
        x[v].store(at + v * P::lanes);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) {
      const P read(reads[h * reads_pitch + i]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[h][v] = fma(read, x[v], sum[h][v]);
    }
  }
  for (int h = 0; h < Heads; ++h)
    for (int v = 0; v < Vectors; ++v) sum[h][v].store_aligned(sums + h * sums_pitch + column + v * P::lanes);
}

/// The same for the last, incomplete vector of columns, and any number of heads.
template <class T>
void step_tail(T* state, index_t stride, index_t rows, const state_write<T>& write, index_t column, index_t columns,
               index_t heads, const T* reads, index_t reads_pitch, T* sums, index_t sums_pitch) noexcept {
  for (index_t e = column; e < columns; ++e) {
    for (index_t h = 0; h < heads; ++h) sums[h * sums_pitch + e] = T(0);
    for (index_t i = 0; i < rows; ++i) {
      T& x = state[i * stride + e];
      T faded = x;
      if (write.row_gate != nullptr) faded *= write.row_gate[i];
      if (write.column_gate != nullptr) faded *= write.column_gate[e];
      x = (std::abs(faded) < negligible_decay<T> ? T(0) : faded) + write.row[i] * write.column[e];
      for (index_t h = 0; h < heads; ++h) sums[h * sums_pitch + e] += reads[h * reads_pitch + i] * x;
    }
  }
}

/// Writes a token to a state, then reads it by all heads.
template <gate_side Gates, class T, class A>
void write_and_read(T* state, index_t stride, index_t rows, index_t columns, const state_write<T>& write, index_t heads,
                    const T* reads, index_t reads_pitch, T* sums, index_t sums_pitch) noexcept {
  using shape = state_step_shape<T, A>;
  constexpr int width = lanes<T, A>;
  const auto columns_of = [&]<int Heads, bool Write>(index_t head) {
    const T* const read = reads + head * reads_pitch;
    T* const sum = sums + head * sums_pitch;
    index_t e = 0;
    const auto by = [&](auto vectors) {
      constexpr int some = decltype(vectors)::value;
      for (; e + some * width <= columns; e += some * width)
        step_columns<Heads, some, Write, Gates, T, A>(state, stride, rows, write, e, read, reads_pitch, sum,
                                                      sums_pitch);
    };
    constexpr int most = shape::vectors(Heads);
    by(std::integral_constant<int, most>{});
    if constexpr (most > 2) by(std::integral_constant<int, most / 2>{});
    if constexpr (most > 1) by(std::integral_constant<int, 1>{});
  };
  index_t head = std::min<index_t>(heads, heads >= shape::heads ? shape::heads : 1);
  if (head == shape::heads)
    columns_of.template operator()<shape::heads, true>(0);
  else
    columns_of.template operator()<1, true>(0);
  for (; head + shape::heads <= heads; head += shape::heads) columns_of.template operator()<shape::heads, false>(head);
  for (; head < heads; ++head) columns_of.template operator()<1, false>(head);
  const index_t whole = columns / width * width;
  if (whole < columns)
    step_tail(state, stride, rows, write, whole, columns, heads, reads, reads_pitch, sums, sums_pitch);
}

}  // namespace detail
HEED_ARCH_END
