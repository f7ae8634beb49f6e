/// Gradients of agent attention.
#pragma once

#include <heed/kernel/agent_rows.hpp>
#include <heed/kernel/first_keys.hpp>
#include <heed/kernel/softmax_backward_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

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

/// Scratch, in bytes, that agent_backward needs for tensors of these extents and these options. Data is not looked at.
template <element T, class A = default_arch>
index_t agent_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                     const std::type_identity_t<view<const T, 4>>& a,
                                     const std::type_identity_t<view<const T, 4>>& k,
                                     const std::type_identity_t<view<const T, 4>>& v,
                                     const std::type_identity_t<agent_backward_options<T>>& options = {}) {
  return detail::agent_backward_run<A, T>(q, a, k, v, options).bytes();
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
