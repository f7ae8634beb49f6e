/// Position biases of agent attention: a small learned map resized to the image, and one number a row and a column.
#pragma once

#include <heed/core/agent_options.hpp>
#include <heed/core/error.hpp>
#include <heed/kernel/softmax_checks.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// Bilinear interpolation along one axis with half-pixel centres: element x of `to` lies between two of `from`.
struct resized_axis {
  index_t from, to;

  struct neighbors {
    index_t low, high;
    double share;  // of the higher one
  };
  neighbors at(index_t x) const noexcept {
    const double source = std::max(0.0, (double(x) + 0.5) * double(from) / double(to) - 0.5);
    const index_t low = std::min(static_cast<index_t>(source), from - 1);
    return {low, std::min(low + 1, from - 1), source - double(low)};
  }
  /// What element i of `from` contributes to element x.
  double weight(index_t i, index_t x) const noexcept {
    const neighbors n = at(x);
    return (n.low == i ? 1 - n.share : 0) + (n.high == i ? n.share : 0);
  }
};

/// A bias and what it is made of, heads and agents first. Strides are any.
template <class Map, class Bias>
struct bias_parts {
  view<Map, 4> map;      // [H,n,r,c]
  view<Map, 3> rows;     // [H,n,h]
  view<Map, 3> columns;  // [H,n,w]
  view<Bias, 4> bias;    // [H,n,h,w]

  resized_axis row_axis() const noexcept { return {map.extent(2), rows.extent(2)}; }
  resized_axis column_axis() const noexcept { return {map.extent(3), columns.extent(2)}; }
};

/// The agents' bias [1,H,n,h w], or with `queries_first` the queries' [1,H,h w,n], whose rows and columns are [H,h,n]
/// and [H,w,n].
template <class Map, class Bias>
bias_parts<Map, Bias> checked_bias(const checker& check, const view<Map, 4>& map, const char* map_name,
                                   view<Map, 3> rows, const char* rows_name, view<Map, 3> columns,
                                   const char* columns_name, const view<Bias, 4>& bias, const char* bias_name,
                                   bool queries_first) {
  if (queries_first) {
    rows = rows.swap_axes(1, 2);
    columns = columns.swap_axes(1, 2);
  }
  const index_t heads = map.extent(0), agents = map.extent(1);
  const int agent_axis = queries_first ? 3 : 2, token_axis = queries_first ? 2 : 3;
  check.require(map.extent(2) > 0, text("%s.extent(2)", map_name).c_str(), "at least 1", map.extent(2));
  check.require(map.extent(3) > 0, text("%s.extent(3)", map_name).c_str(), "at least 1", map.extent(3));
  const auto fits = [&](const view<Map, 3>& part, const char* name) {
    for (const auto& [axis, extent] : {std::pair{0, heads}, {1, agents}})
      if (part.extent(axis) != extent) [[unlikely]]
        check.fail_with(name,
                        text("%lld heads and %lld agents, as %s", static_cast<long long>(heads),
                             static_cast<long long>(agents), map_name)
                            .c_str(),
                        show(part.extent(axis)).c_str());
  };
  fits(rows, rows_name);
  fits(columns, columns_name);
  check.extent(bias, bias_name, 0, 1, "one for the whole batch");
  check.extent(bias, bias_name, 1, heads, text("H, as %s", map_name).c_str());
  check.extent(bias, bias_name, agent_axis, agents, text("n, as %s", map_name).c_str());
  check.extent(bias, bias_name, token_axis, rows.extent(2) * columns.extent(2), "rows times columns");
  const index_t step = bias.stride(token_axis), width = columns.extent(2);
  return {map, rows, columns,
          view<Bias, 4>(bias.data(), {heads, agents, rows.extent(2), width},
                        {bias.stride(1), bias.stride(agent_axis), width * step, step})};
}

template <class S>
void check_bias_inputs(const checker& check, const view<const S, 4>& map, const view<const S, 3>& rows,
                       const view<const S, 3>& columns) {
  check.tensor(map, "map");
  check.tensor(rows, "rows");
  check.tensor(columns, "columns");
}

template <class S>
void resize_bias(const char* op, view<const S, 4> map, view<const S, 3> rows, view<const S, 3> columns, view<S, 4> out,
                 bool queries_first, const executor_ref& where) {
  using T = accumulator_t<S>;
  const checker check(op);
  check_bias_inputs(check, map, rows, columns);
  check.output(out, "out");
  const auto parts = checked_bias(check, map, "map", rows, "rows", columns, "columns", out, "out", queries_first);
  check_aliasing(check, out, "out", map, rows, columns);
  auto task = [&](index_t number, index_t) {
    const index_t h = number / map.extent(1), agent = number % map.extent(1);
    for (index_t y = 0; y < parts.rows.extent(2); ++y) {
      const auto at_row = parts.row_axis().at(y);
      for (index_t x = 0; x < parts.columns.extent(2); ++x) {
        const auto at_column = parts.column_axis().at(x);
        const T down = static_cast<T>(at_row.share), right = static_cast<T>(at_column.share);
        const auto along = [&](index_t row) {
          return (1 - right) * static_cast<T>(map(h, agent, row, at_column.low)) +
                 right * static_cast<T>(map(h, agent, row, at_column.high));
        };
        const T resized = (1 - down) * along(at_row.low) + down * along(at_row.high);
        parts.bias(h, agent, y, x) = static_cast<S>(resized + static_cast<T>(parts.rows(h, agent, y)) +
                                                    static_cast<T>(parts.columns(h, agent, x)));
      }
    }
  };
  for_each_task(resolve(where), map.extent(0) * map.extent(1), task);
}

template <class S>
void resize_bias_backward(const char* op, view<const S, 4> dout, view<S, 4> dmap, view<S, 3> drows, view<S, 3> dcolumns,
                          bool queries_first, const executor_ref& where) {
  using T = accumulator_t<S>;
  const checker check(op);
  check.tensor(dout, "dout");
  check.output(dmap, "dmap");
  check.output(drows, "drows");
  check.output(dcolumns, "dcolumns");
  const auto parts =
      checked_bias(check, dmap, "dmap", drows, "drows", dcolumns, "dcolumns", dout, "dout", queries_first);
  check_aliasing(check, dmap, "dmap", dout);
  check_aliasing(check, drows, "drows", dout, dmap);
  check_aliasing(check, dcolumns, "dcolumns", dout, dmap, drows);
  auto task = [&](index_t number, index_t) {
    const index_t h = number / dmap.extent(1), agent = number % dmap.extent(1);
    const index_t height = parts.rows.extent(2), width = parts.columns.extent(2);
    const auto slope = [&](index_t y, index_t x) { return static_cast<T>(parts.bias(h, agent, y, x)); };
    for (index_t y = 0; y < height; ++y) {
      T sum = 0;
      for (index_t x = 0; x < width; ++x) sum += slope(y, x);
      parts.rows(h, agent, y) = static_cast<S>(sum);
    }
    for (index_t x = 0; x < width; ++x) {
      T sum = 0;
      for (index_t y = 0; y < height; ++y) sum += slope(y, x);
      parts.columns(h, agent, x) = static_cast<S>(sum);
    }
    for (index_t i = 0; i < dmap.extent(2); ++i)
      for (index_t j = 0; j < dmap.extent(3); ++j) {
        T sum = 0;
        for (index_t y = 0; y < height; ++y) {
          const double down = parts.row_axis().weight(i, y);
          for (index_t x = 0; down != 0 && x < width; ++x) {
            const double right = parts.column_axis().weight(j, x);
            if (right != 0) sum += static_cast<T>(down * right) * slope(y, x);
          }
        }
        dmap(h, agent, i, j) = static_cast<S>(sum);
      }
  };
  for_each_task(resolve(where), dmap.extent(0) * dmap.extent(1), task);
}

}  // namespace detail

/// The bias of agents over keys that form an image of h x w tokens:
///     out[0,h,l,y w + x] = resize(map[h,l])(y, x) + rows[h,l,y] + columns[h,l,x]
///
/// resize: bilinear, half-pixel centres: row y is read at max(0, (y + 1/2) r / h - 1/2), columns alike.
///
/// map      [H,n,r,c]      r, c >= 1, in the paper 7 x 7
/// rows     [H,n,h]
/// columns  [H,n,w]
/// out      [1,H,n,h w]    output: options.agent_bias of agent_forward; must not overlap an input. Its element type,
///                         float, double, bfloat16 or float16, is that of all. The last axis of all is contiguous.
///
/// Legal edges: H, n, h or w = 0.
/// Cost: O(H n h w), once for all batch entries. No scratch, no allocation.
/// Deterministic: bit-equal for any executor and number of threads.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, r or c zero, a strided last
/// axis, null data, overlap of out.
/// Paper: Han et al., Agent Attention, 2024, section 4.2.
template <writable<4> Out>
void agent_bias_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> map,
                        std::type_identity_t<view<const element_of_t<Out>, 3>> rows,
                        std::type_identity_t<view<const element_of_t<Out>, 3>> columns, Out&& out,
                        const agent_bias_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::agent_bias_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::resize_bias<S>("agent_bias_forward", map, rows, columns,
                           view_traits<std::remove_reference_t<Out>>::make(out), false, options.executor);
}

/// Gradients of agent_bias_forward by the map, the rows and the columns, given that by out.
///
/// dout      [1,H,n,h w]   such as options.dagent_bias of agent_backward
/// dmap      [H,n,r,c]     outputs, overwritten; none may overlap dout or another output
/// drows     [H,n,h]
/// dcolumns  [H,n,w]
///
/// Cost: O(H n (r + c) h w). Everything else as in agent_bias_forward.
template <writable<4> DMap, writable<3> DRows, writable<3> DColumns>
void agent_bias_backward(std::type_identity_t<view<const element_of_t<DMap>, 4>> dout, DMap&& dmap, DRows&& drows,
                         DColumns&& dcolumns, const agent_bias_options& options = {}) {
  using S = element_of_t<DMap>;
  static_assert(element<S>,
                "heed::agent_bias_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::resize_bias_backward<S>("agent_bias_backward", dout, view_traits<std::remove_reference_t<DMap>>::make(dmap),
                                    view_traits<std::remove_reference_t<DRows>>::make(drows),
                                    view_traits<std::remove_reference_t<DColumns>>::make(dcolumns), false,
                                    options.executor);
}

/// The bias of queries that form an image over agents:
///     out[0,h,y w + x,l] = resize(map[h,l])(y, x) + rows[h,y,l] + columns[h,x,l]
///
/// map      [H,n,r,c]
/// rows     [H,h,n]
/// columns  [H,w,n]
/// out      [1,H,h w,n]    output: options.query_bias of agent_forward. Everything else as in agent_bias_forward.
template <writable<4> Out>
void query_bias_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> map,
                        std::type_identity_t<view<const element_of_t<Out>, 3>> rows,
                        std::type_identity_t<view<const element_of_t<Out>, 3>> columns, Out&& out,
                        const agent_bias_options& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::query_bias_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::resize_bias<S>("query_bias_forward", map, rows, columns,
                           view_traits<std::remove_reference_t<Out>>::make(out), true, options.executor);
}

/// Gradients of query_bias_forward, given dout [1,H,h w,n]: dmap [H,n,r,c], drows [H,h,n], dcolumns [H,w,n], as in
/// agent_bias_backward.
template <writable<4> DMap, writable<3> DRows, writable<3> DColumns>
void query_bias_backward(std::type_identity_t<view<const element_of_t<DMap>, 4>> dout, DMap&& dmap, DRows&& drows,
                         DColumns&& dcolumns, const agent_bias_options& options = {}) {
  using S = element_of_t<DMap>;
  static_assert(element<S>,
                "heed::query_bias_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::resize_bias_backward<S>("query_bias_backward", dout, view_traits<std::remove_reference_t<DMap>>::make(dmap),
                                    view_traits<std::remove_reference_t<DRows>>::make(drows),
                                    view_traits<std::remove_reference_t<DColumns>>::make(dcolumns), true,
                                    options.executor);
}

HEED_ARCH_END
