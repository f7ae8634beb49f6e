/// What the passes of agent attention share: rows of agents, and what is asked of them.
#pragma once

#include <heed/core/agent_options.hpp>
#include <heed/core/error.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Elements between which memory of a call is divided into aligned arrays.
template <class S>
index_t agent_bytes(const view<const S, 4>& a, index_t features) noexcept {
  return round_up(a.extent(0) * a.extent(1) * a.extent(2) * features * index_t(sizeof(S)), cache_line);
}

/// A dense [B,H,n,features] beside the agents.
template <class S>
view<S, 4> agent_rows(const view<const S, 4>& a, index_t features, std::byte* memory) noexcept {
  return {reinterpret_cast<S*>(memory), {a.extent(0), a.extent(1), a.extent(2), features}};
}

template <class S>
double agent_factor(const setting<double>& scale, const view<const S, 4>& q) noexcept {
  return scale.or_default(1 / std::sqrt(double(q.extent(3))));
}

/// The scratch that is left after `used` bytes of it.
inline scratch_view scratch_after(const scratch_block& memory, index_t used, index_t rest) noexcept {
  return {memory.data() + used, rest};
}

/// What the two softmaxes of a call share; the larger one says how much.
template <class S, class A>
index_t agent_softmax_bytes(index_t features, index_t value_features, const agent_options<S>& options) {
  const index_t share = softmax_worker_bytes<S, A>(features, value_features, !std::is_same_v<S, accumulator_t<S>>,
                                                   options.agent_bias || options.query_bias, false);
  return scratch_total(share, resolve(options.executor).concurrency);
}

template <class S>
HEED_COLD void check_agents(const checker& check, const view<const S, 4>& q, const view<const S, 4>& a,
                            const view<const S, 4>& k, const setting<double>& agent_scale) {
  check.tensor(a, "a");
  check.extent(a, "a", 0, q.extent(0), "B, as q");
  check.extent(a, "a", 1, q.extent(1), "H, as q");
  check.require(a.extent(2) > 0, "a.extent(2) (n)", "at least 1", a.extent(2));
  check.extent(a, "a", 3, q.extent(3), "D, as q");
  check.require(std::isfinite(agent_scale.or_default(1)), "options.agent_scale", "a finite number",
                agent_scale.or_default(1));
  // Agents stand between the queries and the keys, so all three must be countable.
  check_positions(check, q.extent(2), k.extent(2), 0, 0);
  check.require(a.extent(2) <= INT_MAX / 2, "a.extent(2) (n)", "at most 2^30 - 1", a.extent(2));
}

/// Rows [B,H,n,E] that the agents gathered.
template <class S, class T>
HEED_COLD void check_agent_values(const checker& check, const view<const S, 4>& a, const view<T, 4>& values,
                                  index_t value_features, const char* name) {
  for (int axis = 0; axis < 3; ++axis) check.extent(values, name, axis, a.extent(axis), "as a");
  check.extent(values, name, 3, value_features, "E, as out");
}

}  // namespace detail
HEED_ARCH_END
