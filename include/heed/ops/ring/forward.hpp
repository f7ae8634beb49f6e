/// Exact softmax attention over a sequence that is spread over several ranks.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/ring_options.hpp>
#include <heed/core/transport.hpp>
#include <heed/kernel/mods.hpp>
#include <heed/kernel/ring_checks.hpp>
#include <heed/kernel/ring_forward_run.hpp>

HEED_ARCH_BEGIN

/// Scratch, in bytes, that ring_forward needs on this rank for tensors of these extents: what `options.scratch` must
/// hold. Data is not looked at.
template <element T, class A = default_arch, transport Transport>
index_t ring_forward_scratch_bytes(const Transport& ranks, const std::type_identity_t<view<const T, 4>>& q,
                                   const std::type_identity_t<view<const T, 4>>& k,
                                   const std::type_identity_t<view<const T, 4>>& v,
                                   const std::type_identity_t<ring_options<T>>& options) {
  const detail::checker check("ring_forward_scratch_bytes");
  const detail::ring_plan plan = detail::plan_ring(check, ranks.rank(), ranks.size(), q, k, options);
  return detail::ring_forward_bytes<A, T>(plan, q, k.extent(1), v.extent(3), static_cast<bool>(options.bias),
                                          detail::resolve(options.executor));
}

namespace detail {

/// ring_forward for an instruction set of the caller's choice.
template <class A, class S, class Transport, class... Mods>
void ring_forward_on(Transport& ranks, view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                     const ring_options<S>& options, const Mods&... mods) {
  static_assert(element<S>, "heed::ring_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(!element<S> || are_mods<S, Mods...>,
                "heed::ring_forward: mods are at most one mask(position) -> bool, and score_mod(score, position) -> "
                "score");
  if constexpr (element<S> && are_mods<S, Mods...>) {
    const checker check("ring_forward");
    const auto& user_mask = find_mask(mods...);
    using mask_type = std::remove_cvref_t<decltype(user_mask)>;
    const windowed<mask_type> mask{options.window_left, options.window_right, user_mask};
    ring_plan plan{};
    view<const S, 4> bias;
    const int last = agree(check, ranks, [&](ring_fact* facts) {
      check_queries(check, q, out, options.lse, options.sink, options.scale, options.softcap);
      check_keys(check, q, k, v, out, "k", "v");
      check_window(check, options.window_left, options.window_right);
      plan = plan_ring(check, ranks.rank(), ranks.size(), q, k, options);
      bias = broadcast_ring_bias(check, plan, options.bias, q);
      check_aliasing(check, out, "out", q, k, v, options.bias);
      check_aliasing(check, options.lse, "options.lse", q, k, v, options.bias, out);
      check_scratch(check, options.scratch,
                    ring_forward_bytes<A, S>(plan, q, k.extent(1), v.extent(3), static_cast<bool>(bias),
                                             resolve(options.executor)));
      state_ring_facts<S, ring_options<S>, Mods...>(plan, q, k, v.extent(3), options, facts);
      return last_step_of(plan, mask, q.extent(0), q.extent(1));
    });
    const softmax_rows<S> rows{
        q, out, options.lse, options.sink, bias, options.scale.or_default(1 / std::sqrt(double(q.extent(3)))), {}};
    or_abort(ranks, [&] {
      run_ring_forward<A>(check, ranks, plan, last, rows, k, v, mask, find_score_mods(options.softcap, mods...),
                          options.scratch, resolve(options.executor), options.tag);
    });
  }
}

}  // namespace detail

/// Softmax attention over N queries and M keys of which every rank holds some: the result of softmax_forward over all of
/// them, each rank getting the rows of its own queries.
///
/// ranks           a transport (core/transport.hpp); all ranks make the call, with their own tensors
/// q    [B,H,n,D]  queries of this rank, the tokens that options.layout gives it, in that order
/// k    [B,G,m,D]  keys of this rank, those that options.kv_layout (default: options.layout) gives it
/// v    [B,G,m,E]  their values
/// out  [B,H,n,E]  output; must not overlap an input
/// options         see ring_options
/// mods            as in softmax_forward. They see global positions: the number of a token plus q_offset or kv_offset
///
/// Keys and values, as they are stored and one set a kv head, go round the ranks in P - 1 steps, each sent while the
/// keys before are worked on; as soon as no rank sees any key of later steps (a window over contiguous shards) the ring
/// stops. Striped and zigzag layouts give all ranks as much to do under a causal mask.
///
/// Legal edges: ranks without queries or keys, more ranks than tokens; P = 1, which uses nothing of the transport but
/// rank() and size(), and gives softmax_forward's result, bit for bit.
/// Cost: that of softmax_forward for the pairs of own queries and visible keys. Messages: one a step, of the bytes of a
/// shard. Scratch: two shards (the largest), 2 accumulators a query, for 16-bit types E more, 4 bytes a query and key
/// (ring_forward_scratch_bytes).
/// Deterministic: bit-equal for any executor, number of threads and speed of messages; not for another P or layout.
/// Accuracy: as softmax_forward.
/// Throws heed::invalid_argument on all ranks, before anything is sent or written: all that softmax_forward throws for;
/// no layout, one for another number of ranks, extents that are not what it gives this rank; options, extents, layouts or
/// types of mods that differ between ranks; and where another rank was refused its arguments (refused_elsewhere).
/// Throws transport_error where ranks cannot go on. Whatever one rank throws during the call, those that still need
/// something of it throw transport_error, others at their next call of the transport, and none waits for it; out and lse
/// are then unspecified.
/// Paper: Liu, Zaharia, Abbeel, Ring Attention with Blockwise Transformers for Near-Infinite Context, 2023; Brandon et
/// al., Striped Attention, 2023.
template <transport Transport, writable<4> Out, class... Mods>
void ring_forward(Transport& ranks, std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                  std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                  const std::type_identity_t<ring_options<element_of_t<Out>>>& options, const Mods&... mods) {
  detail::ring_forward_on<default_arch, element_of_t<Out>>(
      ranks, q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options, mods...);
}

HEED_ARCH_END
