/// Calls of gated linear attention: their gates, and what its operators ask of them.
#pragma once

#include <heed/kernel/linear_chunks.hpp>
#include <heed/kernel/recurrence_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// A gate a key feature, [B,G,M,D], or one a token, [B,G,M].
template <gate_kind Kind, class T>
using gate_view = view<T, Kind == gate_kind::feature ? 4 : 3>;

template <gate_kind Kind, class T, class S>
HEED_COLD void check_gates(const checker& check, const gate_view<Kind, T>& g, const view<const S, 4>& k) {
  for (int axis = 0; axis < gate_view<Kind, T>::rank; ++axis) check.extent(g, "g", axis, k.extent(axis), "as k");
  if constexpr (Kind == gate_kind::feature)
    check.tensor(g, "g");
  else
    check.require(g.data() != nullptr || is_empty(g), "g", "data", "a null pointer");
}

template <gate_kind Kind, class S>
linear_call<S> gated_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                          const gate_view<Kind, const accumulator_t<S>>& g, const view<S, 4>& out,
                          const recurrence_options<S>& options, index_t offset) noexcept {
  linear_call<S> call{q,
                      k,
                      v,
                      out,
                      {},
                      {},
                      {},
                      options.initial_state,
                      options.final_state,
                      options.cu_seqlens,
                      options.reverse,
                      options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                      options.chunk,
                      offset};
  if constexpr (Kind == gate_kind::feature)
    call.feature_gates = g;
  else
    call.token_gates = g;
  return call;
}

}  // namespace detail
HEED_ARCH_END
