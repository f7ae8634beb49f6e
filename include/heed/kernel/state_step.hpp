/// One token's write to a matrix state and the reads of its query heads, in one pass over the state.
#pragma once

#include <heed/kernel/chunk_decay.hpp>

#include <algorithm>
#include <cmath>

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

/// Rows that are walked together, each from front to back, and query heads that read them then. What belongs to a row
/// and a head stays in registers.
template <class T, class A>
struct state_step_shape {
  static constexpr int rows = 4;
  static constexpr int heads = 4;
};

enum class gate_side { none, rows, columns };

/// sums[h][e] += sum_i reads[h][i] * state[i][e] for `Heads` heads, `Rows` rows from number `first` on and all whole
/// vectors of columns, which are written first if told so.
template <int Heads, int Rows, bool Write, gate_side Gates, class T, class A>
HEED_INLINE void step_row_block(T* state, index_t stride, index_t first, index_t columns, const state_write<T>& write,
                                const T* reads, index_t reads_pitch, T* sums, index_t sums_pitch) noexcept {
  using P = pack<T, A>;
  T* const at = state + first * stride;
  P read[Heads][Rows], row[Rows], row_gate[Rows];
  for (int r = 0; r < Rows; ++r) {
    for (int h = 0; h < Heads; ++h) read[h][r] = P(reads[h * reads_pitch + first + r]);
    if constexpr (Write) row[r] = P(write.row[first + r]);
    if constexpr (Write && Gates == gate_side::rows) row_gate[r] = P(write.row_gate[first + r]);
  }
  for (index_t e = 0; e + P::lanes <= columns; e += P::lanes) {
    P sum[Heads], added, gate;
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) sum[h] = P::load_aligned(sums + h * sums_pitch + e);
    if constexpr (Write) added = P::load_aligned(write.column + e);
    if constexpr (Write && Gates == gate_side::columns) gate = P::load_aligned(write.column_gate + e);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      // The rows after these: the processor sees several short streams at once, and follows none of them far.
      if (e % (cache_line / index_t(sizeof(T))) == 0) __builtin_prefetch(at + (Rows + r) * stride + e, Write, 3);
      P x = P::load(at + r * stride + e);
      if constexpr (Write) {
        if constexpr (Gates == gate_side::rows) x = without_negligible(x * row_gate[r]);
        if constexpr (Gates == gate_side::columns) x = without_negligible(x * gate);
        x = fma(row[r], added, x);
        x.store(at + r * stride + e);
      }
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) sum[h] = fma(read[h][r], x, sum[h]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) sum[h].store_aligned(sums + h * sums_pitch + e);
  }
}

/// sums[h][e] = sum_i reads[h][i] * state[i][e] of all rows.
template <int Heads, bool Write, gate_side Gates, class T, class A>
HEED_NOINLINE void step_heads(T* state, index_t stride, index_t rows, index_t columns, const state_write<T>& write,
                              const T* reads, index_t reads_pitch, T* sums, index_t sums_pitch) noexcept {
  constexpr int most = state_step_shape<T, A>::rows;
  for (int h = 0; h < Heads; ++h) std::fill_n(sums + h * sums_pitch, columns, T(0));
  index_t i = 0;
  for (; i + most <= rows; i += most)
    step_row_block<Heads, most, Write, Gates, T, A>(state, stride, i, columns, write, reads, reads_pitch, sums,
                                                    sums_pitch);
  for (; i < rows; ++i)
    step_row_block<Heads, 1, Write, Gates, T, A>(state, stride, i, columns, write, reads, reads_pitch, sums,
                                                 sums_pitch);
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
  const auto heads_from = [&]<int Heads, bool Write>(index_t head) {
    step_heads<Heads, Write, Gates, T, A>(state, stride, rows, columns, write, reads + head * reads_pitch, reads_pitch,
                                          sums + head * sums_pitch, sums_pitch);
  };
  index_t head = std::min<index_t>(heads, heads >= shape::heads ? shape::heads : 1);
  if (head == shape::heads)
    heads_from.template operator()<shape::heads, true>(0);
  else
    heads_from.template operator()<1, true>(0);
  for (; head + shape::heads <= heads; head += shape::heads) heads_from.template operator()<shape::heads, false>(head);
  for (; head < heads; ++head) heads_from.template operator()<1, false>(head);
  const index_t whole = columns / width * width;
  if (whole < columns)
    step_tail(state, stride, rows, write, whole, columns, heads, reads, reads_pitch, sums, sums_pitch);
}

}  // namespace detail
HEED_ARCH_END
