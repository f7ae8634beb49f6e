/// Agent attention: a few tokens gather from all keys, and every query reads those few.
#pragma once

#include <heed/kernel/agent_rows.hpp>
#include <heed/kernel/first_keys.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// agent_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void agent_forward_on(view<const S, 4> q, view<const S, 4> a, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                      const agent_options<S>& options) {
  const checker check("agent_forward");
  check_queries(check, q, out, options.lse, {}, options.scale, 0);
  check_keys(check, q, k, v, out, "k", "v");
  check_agents(check, q, a, k, options.agent_scale);
  check_lengths(check, options.kv_lengths, "options.kv_lengths", q.extent(0), k.extent(2));
  const index_t batch = q.extent(0), heads = q.extent(1), agents = a.extent(2), value_features = out.extent(3);
  const view<const S, 4> agent_bias =
      broadcast_bias(check, options.agent_bias, batch, heads, agents, k.extent(2), "options.agent_bias");
  const view<const S, 4> query_bias =
      broadcast_bias(check, options.query_bias, batch, heads, q.extent(2), agents, "options.query_bias");
  check_lse(check, options.agent_lse, "options.agent_lse", a, "as a");
  if (options.agent_values) {
    check.output(options.agent_values, "options.agent_values");
    check_agent_values(check, a, options.agent_values, value_features, "options.agent_values");
  }
  const auto inputs_apart = [&](const auto& output, const char* name) {
    check_aliasing(check, output, name, q, a, k, v, options.agent_bias, options.query_bias);
  };
  inputs_apart(out, "out");
  inputs_apart(options.agent_values, "options.agent_values");
  inputs_apart(options.agent_lse, "options.agent_lse");
  inputs_apart(options.lse, "options.lse");
  check_aliasing(check, options.agent_values, "options.agent_values", out);
  check_aliasing(check, options.agent_lse, "options.agent_lse", out, options.agent_values);
  check_aliasing(check, options.lse, "options.lse", out, options.agent_values, options.agent_lse);

  const executor_ref where = resolve(options.executor);
  const index_t softmax_bytes = agent_softmax_bytes<S, A>(q.extent(3), value_features, options);
  const index_t own = options.agent_values ? 0 : agent_bytes(a, value_features);
  const scratch_block memory(check, options.scratch, own + softmax_bytes + cache_line);
  const view<S, 4> gathered =
      options.agent_values ? options.agent_values : agent_rows(a, value_features, memory.data());
  const auto attend = [&](const softmax_rows<S>& rows, const view<const S, 4>& keys, const view<const S, 4>& values,
                          const sequence_lengths& lengths) {
    const first_keys seen{lengths};
    const softmax_segment_rows<accumulator_t<S>, dense_keys<S>, first_keys> segment{
        {keys, values}, {-1, -1, seen}, 0, 0, {}, 1};
    run_softmax<A>(
        check, rows, [&](const auto& f) { f(segment); }, false, find_score_mods(0),
        scratch_after(memory, own, softmax_bytes), where);
  };
  attend({a, gathered, options.agent_lse, {}, agent_bias, agent_factor(options.scale, q), {}}, k, v,
         options.kv_lengths);
  attend({q, out, options.lse, {}, query_bias, agent_factor(options.agent_scale, q), {}}, a, gathered, {});
}

}  // namespace detail

/// Scratch, in bytes, that agent_forward needs for tensors of these extents and these options: what `options.scratch`
/// must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t agent_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& a,
                                    const std::type_identity_t<view<const T, 4>>& v,
                                    const std::type_identity_t<agent_options<T>>& options = {}) {
  return (options.agent_values ? 0 : detail::agent_bytes(a, v.extent(3))) +
         detail::agent_softmax_bytes<T, A>(a.extent(3), v.extent(3), options) + detail::cache_line;
}

/// Agent attention: n agents gather from the keys, then each query reads the agents.
///     u[b,h,l,:]   = sum_j softmax_j(scale a_l . k_j + agent_bias_lj) v[b,g(h),j,:]
///     out[b,h,i,:] = sum_l softmax_l(agent_scale q_i . a_l + query_bias_il) u[b,h,l,:]
///
/// over the first kv_lengths[b] keys, g(h) = h / (H / G).
///
/// q    [B,H,N,D]  queries
/// a    [B,H,n,D]  agents, n >= 1; by default queries that agent_pooling_forward averaged
/// k    [B,G,M,D]  keys; H a multiple of G
/// v    [B,G,M,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all five tensors. Any outer strides; the last axis contiguous.
/// options         see agent_options
///
/// There is no causal form: agents gather from all positions. The depthwise term of vision models is
/// agent_depthwise_forward; their biases are those of agent_bias_forward and query_bias_forward.
///
/// Legal edges: N = 0; M = 0 or kv_lengths[b] = 0 (out = 0, agent_lse = -inf). An agent that sees no key, by its bias,
/// has the value 0 and is read as that. Keys and values past kv_lengths[b] never reach the result.
/// Cost: O((N + M) n (D + E)) per head, no N x M. Scratch: B H n E elements unless options.agent_values is given, and
/// O(D + E) a worker (agent_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: that of softmax_forward twice (docs/softmax.md); u is rounded to the element type.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, n, D or E zero, a strided last
/// axis, null data, overlap of an output, a scale that is not finite, bad kv_lengths, scratch too small.
/// Paper: Han, Ye, Han, Xia, Pan, Wan, Song, Huang, Agent Attention: On the Integration of Softmax and Linear
/// Attention, 2024, eq. 4 and 5.
template <writable<4> Out>
void agent_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                   std::type_identity_t<view<const element_of_t<Out>, 4>> a,
                   std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                   std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                   const std::type_identity_t<agent_options<element_of_t<Out>>>& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::agent_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::agent_forward_on<default_arch, S>(q, a, k, v, view_traits<std::remove_reference_t<Out>>::make(out),
                                              options);
}

HEED_ARCH_END
