/// Agent attention: a few tokens gather from all keys, and every query reads those few.
#pragma once

#include <heed/core/agent_options.hpp>
#include <heed/core/error.hpp>
#include <heed/kernel/first_keys.hpp>
#include <heed/kernel/softmax_backward_run.hpp>
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

/// The softmax of the queries over the agents, then that of the agents over the keys, as gradients are taken.
template <class A, class S>
class agent_backward_run {
 public:
  agent_backward_run(const view<const S, 4>& q, const view<const S, 4>& a, const view<const S, 4>& k,
                     const view<const S, 4>& v, const agent_backward_options<S>& options) noexcept
      : q_(q), a_(a), k_(k), v_(v), options_(options), where_(resolve(options.executor)) {}

  index_t bytes() const noexcept { return own_bytes() + softmax_bytes() + cache_line; }

  void run(const checker& check, view<const S, 4> out, view<const S, 4> agent_values,
           view<const accumulator_t<S>, 3> agent_lse, view<const accumulator_t<S>, 3> lse, view<const S, 4> dout,
           view<S, 4> dq, view<S, 4> da, view<S, 4> dk, view<S, 4> dv, view<const S, 4> agent_bias,
           view<const S, 4> query_bias) const {
    const scratch_block memory(check, options_.scratch, bytes());
    const view<S, 4> dvalues = agent_rows(a_, v_.extent(3), memory.data());
    const view<S, 4> da_of_keys = agent_rows(a_, a_.extent(3), memory.data() + agent_bytes(a_, v_.extent(3)));
    const scratch_view rest = scratch_after(memory, own_bytes(), softmax_bytes());
    differentiate(check, rest,
                  {q_,
                   out,
                   lse,
                   dout,
                   {},
                   {},
                   query_bias,
                   dq,
                   {},
                   options_.dquery_bias,
                   agent_factor(options_.agent_scale, q_),
                   {}},
                  a_, agent_values, {}, da, dvalues);
    differentiate(check, rest,
                  {a_,
                   agent_values,
                   agent_lse,
                   dvalues,
                   {},
                   {},
                   agent_bias,
                   da_of_keys,
                   {},
                   options_.dagent_bias,
                   agent_factor(options_.scale, q_),
                   {}},
                  k_, v_, options_.kv_lengths, dk, dv);
    add(da_of_keys, da);
  }

 private:
  index_t own_bytes() const noexcept { return agent_bytes(a_, v_.extent(3)) + agent_bytes(a_, a_.extent(3)); }

  /// The two softmaxes take turns in the same memory.
  index_t softmax_bytes() const noexcept {
    const view<const S, 4> values = agent_rows(a_, v_.extent(3), nullptr);
    return std::max(
        bytes_of({q_,
                  agent_rows(q_, v_.extent(3), nullptr),
                  {},
                  {},
                  {},
                  {},
                  options_.query_bias,
                  {},
                  {},
                  options_.dquery_bias,
                  1,
                  {}},
                 a_, values),
        bytes_of({a_, values, {}, {}, {}, {}, options_.agent_bias, {}, {}, options_.dagent_bias, 1, {}}, k_, v_));
  }

  index_t bytes_of(const softmax_gradient_rows<S>& rows, const view<const S, 4>& k,
                   const view<const S, 4>& v) const noexcept {
    const first_keys all{};
    const auto segment = segment_of(k, v, all, without_data(k), without_data(v));
    return softmax_backward_bytes<A>(rows, [&](const auto& f) { f(segment); }, find_score_mods(0), where_);
  }

  void differentiate(const checker& check, scratch_view scratch, const softmax_gradient_rows<S>& rows,
                     const view<const S, 4>& k, const view<const S, 4>& v, const sequence_lengths& lengths,
                     const view<S, 4>& dk, const view<S, 4>& dv) const {
    const first_keys seen{lengths};
    const auto segment = segment_of(k, v, seen, dk, dv);
    run_softmax_backward<A>(check, rows, [&](const auto& f) { f(segment); }, find_score_mods(0), scratch, where_);
  }

  static softmax_gradient_segment<S, first_keys> segment_of(const view<const S, 4>& k, const view<const S, 4>& v,
                                                            const first_keys& seen, const view<S, 4>& dk,
                                                            const view<S, 4>& dv) noexcept {
    return {{{k, v}, {-1, -1, seen}, 0, 0, {}, 1}, dk, dv};
  }

  static view<S, 4> without_data(const view<const S, 4>& t) noexcept {
    return {nullptr, {t.extent(0), t.extent(1), t.extent(2), t.extent(3)}};
  }

  void add(const view<S, 4>& part, const view<S, 4>& to) const {
    auto of_head = [&](index_t number, index_t) {
      const index_t b = number / to.extent(1), h = number % to.extent(1);
      for (index_t i = 0; i < to.extent(2); ++i)
        for (index_t d = 0; d < to.extent(3); ++d)
          to(b, h, i, d) = static_cast<S>(static_cast<accumulator_t<S>>(to(b, h, i, d)) +
                                          static_cast<accumulator_t<S>>(part(b, h, i, d)));
    };
    for_each_task(where_, to.extent(0) * to.extent(1), of_head);
  }

  view<const S, 4> q_, a_, k_, v_;
  const agent_backward_options<S>& options_;
  executor_ref where_;
};

/// agent_backward for an instruction set of the caller's choice.
template <class A, class S>
void agent_backward_on(view<const S, 4> q, view<const S, 4> a, view<const S, 4> k, view<const S, 4> v,
                       view<const S, 4> out, view<const S, 4> agent_values, view<const accumulator_t<S>, 3> agent_lse,
                       view<const accumulator_t<S>, 3> lse, view<const S, 4> dout, view<S, 4> dq, view<S, 4> da,
                       view<S, 4> dk, view<S, 4> dv, const agent_backward_options<S>& options) {
  const checker check("agent_backward");
  check_backward_queries(check, q, out, lse, dout, dq, {}, {}, options.scale, 0);
  check_keys(check, q, k, v, out, "k", "v");
  check_agents(check, q, a, k, options.agent_scale);
  check_lengths(check, options.kv_lengths, "options.kv_lengths", q.extent(0), k.extent(2));
  check.tensor(agent_values, "agent_values");
  check_agent_values(check, a, agent_values, out.extent(3), "agent_values");
  for (int axis = 0; axis < 3; ++axis) check.extent(agent_lse, "agent_lse", axis, a.extent(axis), "as a");
  check.require(agent_lse.data() != nullptr || is_empty(agent_lse), "agent_lse", "data", "a null pointer");
  check.output(da, "da");
  for (int axis = 0; axis < 4; ++axis) check.extent(da, "da", axis, a.extent(axis), "as a");
  check_key_gradients(check, k, v, dk, dv, "dk", "dv");
  const index_t batch = q.extent(0), heads = q.extent(1), agents = a.extent(2);
  const view<const S, 4> agent_bias =
      broadcast_bias(check, options.agent_bias, batch, heads, agents, k.extent(2), "options.agent_bias");
  const view<const S, 4> query_bias =
      broadcast_bias(check, options.query_bias, batch, heads, q.extent(2), agents, "options.query_bias");
  check_bias_gradient(check, options.agent_bias, options.dagent_bias, "options.agent_bias", "options.dagent_bias");
  check_bias_gradient(check, options.query_bias, options.dquery_bias, "options.query_bias", "options.dquery_bias");
  const auto inputs_apart = [&](const auto& output, const char* name, const auto&... outputs) {
    check_aliasing(check, output, name, q, a, k, v, out, agent_values, agent_lse, lse, dout, options.agent_bias,
                   options.query_bias, outputs...);
  };
  inputs_apart(dq, "dq");
  inputs_apart(da, "da", dq);
  inputs_apart(dk, "dk", dq, da);
  inputs_apart(dv, "dv", dq, da, dk);
  inputs_apart(options.dagent_bias, "options.dagent_bias", dq, da, dk, dv);
  inputs_apart(options.dquery_bias, "options.dquery_bias", dq, da, dk, dv, options.dagent_bias);

  agent_backward_run<A, S>(q, a, k, v, options)
      .run(check, out, agent_values, agent_lse, lse, dout, dq, da, dk, dv, agent_bias, query_bias);
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

/// Scratch, in bytes, that agent_backward needs for tensors of these extents and these options. Data is not looked at.
template <element T, class A = default_arch>
index_t agent_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                     const std::type_identity_t<view<const T, 4>>& a,
                                     const std::type_identity_t<view<const T, 4>>& k,
                                     const std::type_identity_t<view<const T, 4>>& v,
                                     const std::type_identity_t<agent_backward_options<T>>& options = {}) {
  return detail::agent_backward_run<A, T>(q, a, k, v, options).bytes();
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

/// Gradients of a loss by q, a, k and v, and by the biases, given that by out.
///
/// q, a, k, v              what agent_forward was given
/// out           [B,H,N,E] what it returned
/// agent_values  [B,H,n,E] what it returned in options.agent_values
/// agent_lse     [B,H,n]   and in options.agent_lse
/// lse           [B,H,N]   and in options.lse
/// dout          [B,H,N,E] gradient by out
/// dq            [B,H,N,D] gradient by q, an output as are da, dk and dv; none may overlap an input or another output
/// da            [B,H,n,D] gradient by a, from both softmaxes; agent_pooling_backward takes it on to the queries
/// dk            [B,G,M,D] gradient by k
/// dv            [B,G,M,E] gradient by v. Element types are those of dq.
/// options                 see agent_backward_options
///
/// Legal edges: N = 0, M = 0. Keys past kv_lengths[b] have gradient 0, whatever they hold.
/// Cost: 5 / 2 of agent_forward, with gradients of biases 7 / 2. Scratch: B H n (D + E) elements, and that of
/// softmax_backward for the larger of the two softmaxes (agent_backward_scratch_bytes): options.scratch, or memory that
/// the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: that of softmax_backward (docs/softmax.md); the gradient by the agents' values, and each part of da, is
/// rounded to the element type.
/// Throws heed::invalid_argument before any write: all that agent_forward throws for, extents of what was saved or of
/// gradients that do not fit, a gradient by a bias that is not there.
/// Paper: Han et al., Agent Attention, 2024.
template <writable<4> DQ, writable<4> DA, writable<4> DK, writable<4> DV>
void agent_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                    std::type_identity_t<view<const element_of_t<DQ>, 4>> a,
                    std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                    std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                    std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                    std::type_identity_t<view<const element_of_t<DQ>, 4>> agent_values,
                    std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> agent_lse,
                    std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> lse,
                    std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DA&& da, DK&& dk, DV&& dv,
                    const std::type_identity_t<agent_backward_options<element_of_t<DQ>>>& options = {}) {
  using S = element_of_t<DQ>;
  static_assert(element<S>, "heed::agent_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::agent_backward_on<default_arch, S>(
        q, a, k, v, out, agent_values, agent_lse, lse, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
        view_traits<std::remove_reference_t<DA>>::make(da), view_traits<std::remove_reference_t<DK>>::make(dk),
        view_traits<std::remove_reference_t<DV>>::make(dv), options);
}

HEED_ARCH_END
