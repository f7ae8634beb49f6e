/// Agents as averages of queries.
#pragma once

#include <heed/core/agent_options.hpp>
#include <heed/kernel/chunk_rows.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/token_grid.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Adaptive pooling along one axis: cell i of `cells` averages [low(i), high(i)) of `length`. Cells overlap where
/// `cells` is no divisor of `length`.
struct pooling_axis {
  index_t length, cells;

  index_t low(index_t cell) const noexcept { return cell * length / cells; }
  index_t high(index_t cell) const noexcept { return ((cell + 1) * length + cells - 1) / cells; }
  /// The cells that an element belongs to: [first, last).
  index_t first_cell(index_t element) const noexcept { return element * cells / length; }
  index_t last_cell(index_t element) const noexcept { return ((element + 1) * cells + length - 1) / length; }
};

struct pooling_axes {
  pooling_axis rows, columns;

  index_t area(index_t row, index_t column) const noexcept {
    return (rows.high(row) - rows.low(row)) * (columns.high(column) - columns.low(column));
  }
};

/// Tensors `fine` [B,H,N,D] and `coarse` [B,H,n,D] of one call.
template <class Fine, class Coarse>
pooling_axes checked_pooling(const checker& check, const Fine& fine, const char* fine_name, const Coarse& coarse,
                             const char* coarse_name, const agent_pooling_options& options) {
  check.extent(coarse, coarse_name, 0, fine.extent(0), text("B, as %s", fine_name).c_str());
  check.extent(coarse, coarse_name, 1, fine.extent(1), text("H, as %s", fine_name).c_str());
  check.extent(coarse, coarse_name, 3, fine.extent(3), text("D, as %s", fine_name).c_str());
  const token_grid tokens = checked_grid(check, options.tokens, "options.tokens", fine.extent(2), "N");
  const token_grid agents = checked_grid(check, options.agents, "options.agents", coarse.extent(2), "n");
  return {{tokens.height, agents.height}, {tokens.width, agents.width}};
}

/// Calls f(b, h, row) for rows of a grid, each a task.
template <class F>
void for_grid_rows(const executor_ref& where, index_t batch, index_t heads, index_t rows, const F& f) {
  auto task = [&](index_t number, index_t) { f(number / (heads * rows), number / rows % heads, number % rows); };
  for_each_task(resolve(where), batch * heads * rows, task);
}

template <class A, class S>
void agent_pooling_forward_on(view<const S, 4> x, view<S, 4> out, const agent_pooling_options& options) {
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  const checker check("agent_pooling_forward");
  check.tensor(x, "x");
  check.output(out, "out");
  const pooling_axes axes = checked_pooling(check, x, "x", out, "out", options);
  check_aliasing(check, out, "out", x);
  for_grid_rows(options.executor, x.extent(0), x.extent(1), axes.rows.cells, [&](index_t b, index_t h, index_t row) {
    for (index_t column = 0; column < axes.columns.cells; ++column)
      for_vectors<T, A>(x.extent(3), [&](index_t d, int count) {
        P sum(T(0));
        for (index_t i = axes.rows.low(row); i < axes.rows.high(row); ++i)
          for (index_t j = axes.columns.low(column); j < axes.columns.high(column); ++j)
            sum += load_some<T, A>(&x(b, h, i * axes.columns.length + j, d), count);
        store_some(&out(b, h, row * axes.columns.cells + column, d), sum / P(static_cast<T>(axes.area(row, column))),
                   count);
      });
  });
}

template <class A, class S>
void agent_pooling_backward_on(view<const S, 4> dout, view<S, 4> dx, const agent_pooling_options& options) {
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  const checker check("agent_pooling_backward");
  check.tensor(dout, "dout");
  check.output(dx, "dx");
  const pooling_axes axes = checked_pooling(check, dx, "dx", dout, "dout", options);
  check_aliasing(check, dx, "dx", dout);
  for_grid_rows(options.executor, dx.extent(0), dx.extent(1), axes.rows.length, [&](index_t b, index_t h, index_t row) {
    for (index_t column = 0; column < axes.columns.length; ++column)
      for_vectors<T, A>(dx.extent(3), [&](index_t d, int count) {
        P sum(T(0));
        for (index_t i = axes.rows.first_cell(row); i < axes.rows.last_cell(row); ++i)
          for (index_t j = axes.columns.first_cell(column); j < axes.columns.last_cell(column); ++j)
            sum +=
                load_some<T, A>(&dout(b, h, i * axes.columns.cells + j, d), count) / P(static_cast<T>(axes.area(i, j)));
        store_some(&dx(b, h, row * axes.columns.length + column, d), sum, count);
      });
  });
}

}  // namespace detail

/// Adaptive average pooling of tokens, by which agents are made of queries. Of tokens in h x w and agents in P x R:
///     out[b,h,(i,j),:] = mean of x[b,h,(y,x),:] over y in [floor(i h / P), ceil((i + 1) h / P)), x alike
///
/// x        [B,H,N,D]  queries, N = h w >= 1
/// out      [B,H,n,D]  agents, n = P R >= 1; must not overlap x. Its element type, float, double, bfloat16 or float16,
///                     is that of x. Any outer strides; the last axis contiguous.
/// options             see agent_pooling_options
///
/// Legal edges: B, H or D = 0; more agents than tokens.
/// Cost: O(N D) per head. No scratch, no allocation.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: sums in float (double for double), one after the other.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, grids that are not those of N
/// and n tokens, N or n zero, a strided last axis, null data, overlap of out.
/// Paper: Han et al., Agent Attention, 2024, section 4.1.
template <writable<4> Out>
void agent_pooling_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> x, Out&& out,
                           const agent_pooling_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>,
                "heed::agent_pooling_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::agent_pooling_forward_on<default_arch, S>(x, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// Gradient of agent_pooling_forward by x: every token gets its share of the cells that it belongs to.
///
/// dout     [B,H,n,D]  gradient by out, such as da of agent_backward
/// dx       [B,H,N,D]  output, overwritten; everything else as in agent_pooling_forward
template <writable<4> DX>
void agent_pooling_backward(std::type_identity_t<view<const element_of_t<DX>, 4>> dout, DX&& dx,
                            const agent_pooling_options& options = {}) {
  using S = element_of_t<DX>;
  static_assert(element<S>,
                "heed::agent_pooling_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::agent_pooling_backward_on<default_arch, S>(dout, view_traits<std::remove_reference_t<DX>>::make(dx),
                                                       options);
}

HEED_ARCH_END
