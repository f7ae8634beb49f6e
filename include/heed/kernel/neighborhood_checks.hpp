/// What neighborhood attention asks of its arguments before it writes anything.
#pragma once

#include <heed/kernel/softmax_checks.hpp>
#include <heed/mod/neighborhood.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Axes of a grid of `tokens` tokens.
HEED_COLD inline void check_neighborhood(const checker& check, const neighborhood_axes& axes, index_t tokens) {
  check.require(axes.rank() >= 1 && axes.rank() <= 3, "axes", "1 to 3 axes", axes.rank());
  index_t product = 1;
  for (index_t i = 0; i < axes.rank(); ++i) {
    check_neighborhood_axis(check, axes[i], text("axes[%d].", static_cast<int>(i)).c_str());
    product *= axes[i].length;
    // As positions elsewhere.
    check.require(product <= INT_MAX / 2, "axes", "a grid of at most 2^30 - 1 tokens", product);
  }
  if (tokens != product) [[unlikely]]
    check.fail_with("q.extent(2) (N)",
                    text("%lld (the product of the axes' lengths)", static_cast<long long>(product)).c_str(),
                    show(tokens).c_str());
}

/// A table of relative positions, or a gradient of its extents.
template <class S>
HEED_COLD void check_relative_table(const checker& check, const neighborhood_axes& axes, index_t heads,
                                    const view<S, 2>& table, const char* name) {
  index_t entries = 1;
  for (index_t i = 0; i < axes.rank(); ++i) {
    check.require(axes[i].stride == 1 && !axes[i].causal, name, "none on a grid with a strided or causal axis",
                  "a table");
    entries *= 2 * index_t(axes[i].window) - 1;
  }
  check.require(entries <= INT_MAX / 2, name, "a table of at most 2^30 - 1 entries", entries);
  check.tensor(table, name);
  check.extent(table, name, 0, heads, "H, as q");
  check.extent(table, name, 1, entries, "the product of 2 window - 1 over the axes");
}

/// Keys of a grid, and those that every query sees.
template <class S>
HEED_COLD void check_neighborhood_keys(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                       const view<const S, 4>& v, const std::type_identity_t<view<const S, 4>>& out,
                                       const view<const S, 4>& k_extra, const view<const S, 4>& v_extra) {
  check_keys(check, q, k, v, out, "k", "v");
  check.extent(k, "k", 2, q.extent(2), "N, as q");
  check.require(static_cast<bool>(k_extra) == static_cast<bool>(v_extra), "options.k_extra, v_extra", "both or none",
                "one of them");
  if (!k_extra) return;
  check_keys(check, q, k_extra, v_extra, out, "options.k_extra", "options.v_extra");
  check.extent(k_extra, "options.k_extra", 1, k.extent(1), "G, as k");
}

}  // namespace detail
HEED_ARCH_END
