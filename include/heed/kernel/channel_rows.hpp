/// What both passes of channel attention are made of: the weights of channels, from sums over positions.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/kernel/efficient_rows.hpp>
#include <heed/kernel/gradient_rows.hpp>
#include <heed/kernel/softmax_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// The inputs of a call; all of them checked. [B,H,N,C] each.
template <class S>
struct channel_call {
  view<const S, 4> q, k, v;
  double scale;

  index_t heads() const noexcept { return q.extent(0) * q.extent(1); }
  index_t positions() const noexcept { return q.extent(2); }
  index_t channels() const noexcept { return q.extent(3); }
  row_parts parts() const noexcept { return {1, positions(), heads()}; }

  template <class U>
  row_span<U> rows(const view<U, 4>& tensor, index_t head, index_t first) const noexcept {
    return rows_at(tensor, head / q.extent(1), head % q.extent(1), first);
  }
};

/// Checks what q, k and v of both passes must be.
template <class S>
HEED_COLD channel_call<S> checked_channel_call(const checker& check, const view<const S, 4>& q,
                                               const view<const S, 4>& k, const view<const S, 4>& v,
                                               const setting<double>& scale) {
  check.tensor(q, "q");
  check.require(q.extent(3) > 0, "q.extent(3) (C)", "at least 1", q.extent(3));
  check.require(std::isfinite(scale.or_default(1)), "options.scale", "a finite number", scale.or_default(1));
  const auto as_q = [&](const view<const S, 4>& tensor, const char* name) {
    check.tensor(tensor, name);
    for (int axis = 0; axis < 4; ++axis) check.extent(tensor, name, axis, q.extent(axis), "as q");
  };
  as_q(k, "k");
  as_q(v, "v");
  return {q, k, v, scale.or_default(1 / std::sqrt(double(q.extent(3))))};
}

/// Rows of a block as products take them, with copies if they must be.
template <class T>
struct channel_block {
  channel_block(scratch_cursor& memory, index_t channels) noexcept
      : scalars(take_rows<T>(memory, efficient_block, channels)),
        vectors(take_rows<T>(memory, efficient_block, channels)),
        results(take_rows<T>(memory, efficient_block, channels)) {}
  row_span<T> scalars, vectors, results;  // [position][C]
};

/// to[a][c] += sum over the positions of a block of a_rows[n][a] c_rows[n][c]
template <class A, class T, class S>
void add_channel_products(const channel_block<T>& space, row_span<const S> a_rows, row_span<const S> c_rows,
                          index_t count, index_t channels, row_span<T> to) noexcept {
  add_context<T, A>(rows_for_scalars<T, A>(a_rows, 0, count, channels, space.scalars),
                    rows_for_vectors<T, A>(c_rows, 0, count, channels, space.vectors), count, channels, channels, to);
}

/// to[n] = sum_i rows[n][i] matrix[i] for the positions of a block.
template <class A, class T, class S>
void multiply_channels(const channel_block<T>& space, row_span<const S> rows, index_t count,
                       std::type_identity_t<row_span<const T>> matrix, index_t channels, row_span<S> to) noexcept {
  const row_span<T> left = rows_to_leave<T, A>(to, channels, space.results);
  multiply_rows<T, A>(rows_for_scalars<T, A>(rows, 0, count, channels, space.scalars), count, matrix, channels,
                      channels, left);
  leave_rows<T, A>(left, to, 0, count, channels);
}

/// The sums of all parts, [part][C][C], in those of the first.
template <class T, class A>
void add_channel_parts(row_span<T> sums, index_t parts, index_t channels) noexcept {
  for (index_t a = 0; a < channels; ++a)
    sum_rows<T, A>(sums[a], channels * sums.stride, parts, false, sums[a], channels);
}

/// Scores q^T k become weights: softmax over the channels of k, of scale times them. `inverse`: one number a channel.
template <class T, class A>
void weigh_channels(row_span<T> scores, index_t channels, T scale, T* inverse) noexcept {
  using P = pack<T, A>;
  const auto multiply = [&](index_t a, T factor) {
    for_vectors<T, A>(
        channels, [&](index_t c, int) { (P::load_aligned(scores[a] + c) * P(factor)).store_aligned(scores[a] + c); });
  };
  for (index_t a = 0; a < channels; ++a) multiply(a, scale);
  exponentiate_rows<T, A>(scores, channels, channels, inverse);
  for (index_t a = 0; a < channels; ++a) multiply(a, inverse[a]);
}

/// Calls work(block scratch, head, block) for all blocks, several a task.
template <class T, class Space, class Work>
void for_channel_blocks(const executor_ref& where, index_t heads, index_t positions, const Space& space_of,
                        const Work& work) {
  constexpr index_t together = 4 * efficient_block;
  const index_t groups = (positions + together - 1) / together;
  auto task = [&](index_t number, index_t worker) {
    const channel_block<T> space = space_of(worker);
    const index_t head = number / groups, begin = number % groups * together;
    for (index_t first = begin; first < std::min(begin + together, positions); first += efficient_block)
      work(space, head, first, std::min(efficient_block, positions - first));
  };
  for_each_task(where, heads * groups, task);
}

}  // namespace detail
HEED_ARCH_END
