/// What both passes of window attention ask of their arguments before they write anything.
#pragma once

#include <heed/core/swin_options.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/swin_rows.hpp>
#include <heed/kernel/token_grid.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// A matrix that is read element by element.
template <class S>
HEED_COLD void check_matrix(const checker& check, const view<const S, 2>& matrix, const char* name, index_t rows,
                            const char* rows_meaning, index_t columns, const char* columns_meaning) {
  check.extent(matrix, name, 0, rows, rows_meaning);
  check.extent(matrix, name, 1, columns, columns_meaning);
  check.require(matrix.data() != nullptr || is_empty(matrix), name, "data", "a null pointer");
}

/// Vectors of missing places.
template <class S>
HEED_COLD void check_missing(const checker& check, const view<const S, 2>& rows, const char* name, bool attends,
                             const view<const S, 4>& tensor, const char* extents) {
  check.require(static_cast<bool>(rows) == attends, name,
                attends ? "vectors, as options.padding is attend" : "none, as options.padding is mask",
                rows ? "vectors" : "none");
  if (!attends) return;
  check.tensor(rows, name);
  check.extent(rows, name, 0, tensor.extent(1), "G, as k");
  check.extent(rows, name, 1, tensor.extent(3), extents);
}

/// Checks what Options of both passes have in common, and q, k, v beside each other.
template <class S, class Options>
HEED_COLD swin_call<S> checked_swin_call(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                         const view<const S, 4>& v, const Options& options) {
  check.extent(k, "k", 2, q.extent(2), "N, as q");
  check_positions(check, q.extent(2), k.extent(2), 0, 0);
  const token_grid tokens = q.extent(2) == 0 && !options.tokens.given()
                                ? token_grid{1, 0}
                                : checked_grid(check, options.tokens, "options.tokens", q.extent(2), "N, as q");
  const token_grid window = options.window;
  constexpr index_t most = index_t(1) << 15;
  const auto in_range = [&](index_t value, const char* name, index_t low, index_t high) {
    if (value < low || value > high) [[unlikely]]
      check.fail_with(name, text("%lld to %lld", static_cast<long long>(low), static_cast<long long>(high)).c_str(),
                      show(value).c_str());
  };
  in_range(window.height, "options.window.height", 1, most);
  in_range(window.width, "options.window.width", 1, most);
  in_range(options.shift.y, "options.shift.y", 0, window.height - 1);
  in_range(options.shift.x, "options.shift.x", 0, window.width - 1);
  if (options.table)
    check_matrix(check, options.table, "options.table", (2 * window.height - 1) * (2 * window.width - 1),
                 "(2 window.height - 1)(2 window.width - 1)", q.extent(1), "H, as q");
  check.require(options.padding == swin_padding::mask || options.padding == swin_padding::attend, "options.padding",
                "mask or attend", static_cast<int>(options.padding));
  const bool attends = options.padding == swin_padding::attend;
  check_missing(check, options.k_pad, "options.k_pad", attends, k, "D, as k");
  check_missing(check, options.v_pad, "options.v_pad", attends, v, "E, as v");
  return {
      q,
      k,
      v,
      {{tokens.height, window.height, options.shift.y}, {tokens.width, window.width, options.shift.x}, tokens.width},
      window,
      options.table,
      options.k_pad,
      options.v_pad,
      options.scale.or_default(1 / std::sqrt(double(q.extent(3))))};
}

}  // namespace detail
HEED_ARCH_END
