/// Gradients of exact softmax attention over a sequence that is spread over several ranks.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/ring_options.hpp>
#include <heed/core/transport.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/ring_backward_run.hpp>
#include <heed/kernel/ring_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S, class... Mods>
inline constexpr bool are_ring_backward_mods =
    mask_count<Mods...> <= 1 && (... && (is_mask<Mods> || is_differentiable_mod<Mods, accumulator_t<S>>));

/// Of a gradient by the bias, that it is one of this rank's rows alone and of one step's keys alone.
template <class S>
HEED_COLD void check_ring_bias_gradient(const checker& check, const ring_plan& plan, const view<const S, 4>& q,
                                        const view<const S, 4>& bias, const view<S, 4>& dbias) {
  check_bias_gradient(check, bias, dbias);
  if (!dbias) return;
  check.extent(bias, "options.bias", 2, q.extent(2), "n, as q, where dbias is given");
  check.extent(bias, "options.bias", 3, plan.keys.tokens(), "M, where dbias is given");
}

/// Scratch of a call.
template <class A, class S, class... Mods>
index_t ring_backward_call_bytes(const ring_plan& plan, const view<const S, 4>& q, const view<const S, 4>& k,
                                 const view<const S, 4>& v, const ring_backward_options<S>& options,
                                 const Mods&... mods) {
  // Only the last extent is looked at.
  const view<const S, 4> out(nullptr, {q.extent(0), q.extent(1), q.extent(2), v.extent(3)});
  const softmax_gradient_rows<S> rows{q, out, {}, {}, {}, {}, options.bias, {}, options.dsink, options.dbias, 1, {}};
  const auto& user_mask = find_mask(mods...);
  using mask_type = std::remove_cvref_t<decltype(user_mask)>;
  const windowed<mask_type> mask{-1, -1, user_mask};
  const auto chain = find_score_mods(options.softcap, mods...);
  const executor_ref where = resolve(options.executor);
  return ring_backward_bytes<A>(plan, rows, k, v, mask, chain, where);
}

}  // namespace detail

/// Scratch, in bytes, that ring_backward needs on this rank for tensors of these extents, these options and mods: what
/// `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch, transport Transport, class... Mods>
index_t ring_backward_scratch_bytes(const Transport& ranks, const std::type_identity_t<view<const T, 4>>& q,
                                    const std::type_identity_t<view<const T, 4>>& k,
                                    const std::type_identity_t<view<const T, 4>>& v,
                                    const std::type_identity_t<ring_backward_options<T>>& options,
                                    const Mods&... mods) {
  const detail::checker check("ring_backward_scratch_bytes");
  const detail::ring_plan plan = detail::plan_ring(check, ranks.rank(), ranks.size(), q, k, options);
  return detail::ring_backward_call_bytes<A, T>(plan, q, k, v, options, mods...);
}

namespace detail {

/// ring_backward for an instruction set of the caller's choice.
template <class A, class S, class Transport, class... Mods>
void ring_backward_on(Transport& ranks, view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                      view<const S, 4> out, view<const accumulator_t<S>, 3> lse, view<const S, 4> dout, view<S, 4> dq,
                      view<S, 4> dk, view<S, 4> dv, const ring_backward_options<S>& options, const Mods&... mods) {
  static_assert(element<S>, "heed::ring_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(!element<S> || are_ring_backward_mods<S, Mods...>,
                "heed::ring_backward: mods are at most one mask(position) -> bool, and score_mod(score, position) -> "
                "score with scores that are heed::dual numbers: write it with `auto`");
  if constexpr (element<S> && are_ring_backward_mods<S, Mods...>) {
    const checker check("ring_backward");
    const auto& user_mask = find_mask(mods...);
    using mask_type = std::remove_cvref_t<decltype(user_mask)>;
    const windowed<mask_type> mask{options.window_left, options.window_right, user_mask};
    ring_plan plan{};
    view<const S, 4> bias;
    const int last = agree(check, ranks, [&](ring_fact* facts) {
      check_backward_queries(check, q, out, lse, dout, dq, options.dlse, options.sink, options.scale, options.softcap);
      check_keys(check, q, k, v, out, "k", "v");
      check_key_gradients(check, k, v, dk, dv, "dk", "dv");
      check_window(check, options.window_left, options.window_right);
      plan = plan_ring(check, ranks.rank(), ranks.size(), q, k, options);
      bias = broadcast_ring_bias(check, plan, options.bias, q);
      check_sink_gradient(check, q, options.sink, options.dsink);
      check_ring_bias_gradient(check, plan, q, options.bias, options.dbias);
      const auto inputs_apart = [&](const auto& output, const char* name) {
        check_aliasing(check, output, name, q, k, v, out, lse, dout, options.bias, options.sink, options.dlse);
      };
      inputs_apart(dq, "dq");
      inputs_apart(dk, "dk");
      inputs_apart(dv, "dv");
      inputs_apart(options.dsink, "options.dsink");
      inputs_apart(options.dbias, "options.dbias");
      check_aliasing(check, dk, "dk", dq);
      check_aliasing(check, dv, "dv", dq, dk);
      check_aliasing(check, options.dsink, "options.dsink", dq, dk, dv);
      check_aliasing(check, options.dbias, "options.dbias", dq, dk, dv, options.dsink);
      check_scratch(check, options.scratch, ring_backward_call_bytes<A, S>(plan, q, k, v, options, mods...));
      state_ring_facts<S, ring_backward_options<S>, Mods...>(plan, q, k, v.extent(3), options, facts);
      return last_step_of(plan, mask, q.extent(0), q.extent(1));
    });
    const softmax_gradient_rows<S> rows{q,
                                        out,
                                        lse,
                                        dout,
                                        options.dlse,
                                        options.sink,
                                        bias,
                                        dq,
                                        options.dsink,
                                        options.dbias,
                                        options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                        {}};
    const auto chain = find_score_mods(options.softcap, mods...);
    or_abort(ranks, [&] {
      run_ring_backward<A>(check, ranks, plan, last, rows, k, v, dk, dv, mask, chain, options.scratch,
                           resolve(options.executor), options.tag);
    });
  }
}

}  // namespace detail

/// Gradients of a loss by q, k and v of every rank, given those by the rows of out (and lse) that the rank has: those of
/// softmax_backward over all queries and keys.
///
/// ranks           a transport; all ranks make the call
/// q    [B,H,n,D]  queries         k    [B,G,m,D]  keys          v    [B,G,m,E]  values: what this rank gave
///                 ring_forward
/// out  [B,H,n,E]  what ring_forward returned on this rank
/// lse  [B,H,n]    what it returned in options.lse
/// dout [B,H,n,E]  gradient by out
/// dq   [B,H,n,D]  gradient by q, an output as are dk and dv; none may overlap an input or another output
/// dk   [B,G,m,D]  gradient by k, from the queries of all ranks
/// dv   [B,G,m,E]  gradient by v
/// options         see ring_backward_options
/// mods            those of the forward call, callable with heed::dual numbers. Gradients by parameters
///                 (with_parameters) are summed over all ranks and given to all, so ranks of one process need a place for
///                 them each; mods that accumulate get the pairs of this rank's queries
///
/// Keys and values go round once more. The sums of their gradients, in the accumulator's type, follow one step behind:
/// each rank adds what its queries give, and they end where the keys are at home. When the ring stops early they go
/// home at once.
///
/// Legal edges: as ring_forward.
/// Cost: 5 / 2 of ring_forward. Messages: P - 1 of keys and values and P of gradients a rank, less if the ring stops
/// early. Scratch: two shards, three in the accumulator's type, one or two times q in it, and that of softmax_backward
/// over one shard (ring_backward_scratch_bytes).
/// Deterministic: bit-equal for any executor, number of threads and speed of messages; not for another P or layout.
/// Accuracy: as softmax_backward.
/// Throws as ring_forward; all that softmax_backward throws for; dbias of a bias that is broadcast over n or M.
/// Paper: Liu, Zaharia, Abbeel, Ring Attention with Blockwise Transformers for Near-Infinite Context, 2023; Brandon et
/// al., Striped Attention, 2023.
template <transport Transport, writable<4> DQ, writable<4> DK, writable<4> DV, class... Mods>
void ring_backward(Transport& ranks, std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                   std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> lse,
                   std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                   const std::type_identity_t<ring_backward_options<element_of_t<DQ>>>& options, const Mods&... mods) {
  detail::ring_backward_on<default_arch, element_of_t<DQ>>(
      ranks, q, k, v, out, lse, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv), options,
      mods...);
}

HEED_ARCH_END
