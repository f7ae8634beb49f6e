/// Gated Slot Attention over a sequence that is spread over several ranks: a composite of gated_slot_forward and a
/// transport.
#pragma once

#include <heed/core/ring_recurrence_options.hpp>
#include <heed/core/transport.hpp>
#include <heed/kernel/relay_checks.hpp>
#include <heed/ops/linear/gated_slot_forward.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a call over several ranks needs for one piece of its heads.
template <class S>
gated_slot_options<S> piece_options(const ring_gated_slot_options<S>& options) noexcept {
  gated_slot_options<S> one{};
  one.scale = options.scale;
  one.chunk = options.chunk;
  one.executor = options.executor;
  return one;
}

/// The states of a kv head are the keys of its slots and, after them, their values.
template <class S>
relayed_states slot_relay_states(const view<const S, 4>& k, const view<const S, 4>& v, index_t slots) noexcept {
  return {k.extent(0), k.extent(1), slots * (k.extent(3) + v.extent(3))};
}

/// Bytes of scratch of a piece.
template <class A, class S>
auto slot_piece_bytes(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v, index_t slots,
                      const ring_gated_slot_options<S>& options) noexcept {
  return [=](const head_range& piece) {
    return gated_slot_forward_scratch_bytes<S, A>(piece.of(q, q.extent(1) / k.extent(1)), piece.of(k), piece.of(v),
                                                  slots, piece_options(options));
  };
}

/// ring_gated_slot_forward for an instruction set of the caller's choice.
template <class A, class S, class Transport>
void ring_gated_slot_forward_on(Transport& ranks, view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                                view<const accumulator_t<S>, 4> s, view<const accumulator_t<S>, 4> g, view<S, 4> out,
                                const ring_gated_slot_options<S>& options) {
  static_assert(element<S>,
                "heed::ring_gated_slot_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    using T = accumulator_t<S>;
    const checker check("ring_gated_slot_forward");
    const index_t share = k.extent(1) > 0 ? q.extent(1) / k.extent(1) : 1, slots = s.extent(3);
    const relayed_states extents = slot_relay_states(k, v, slots);
    const auto bytes_of = slot_piece_bytes<A>(q, k, v, slots, options);
    agree(check, ranks, [&](ring_fact* facts) {
      check_recurrence(check, q, k, v, out, options.scale, options.chunk);
      check_slot_writes(check, q, k, s, g);
      check_relayed(check, ranks.rank(), q, k, options.initial_keys.data(), "options.initial_keys", options.tag);
      check_relayed(check, ranks.rank(), q, k, options.initial_values.data(), "options.initial_values", options.tag);
      check_slots(check, options.initial_keys, "options.initial_keys", options.initial_values, "options.initial_values",
                  k.extent(0), k, v, s.extent(3));
      check_slots(check, options.final_keys, "options.final_keys", options.final_values, "options.final_values",
                  k.extent(0), k, v, s.extent(3));
      if (options.scores) check_slot_scores(check, q, options.scores, "options.scores", s.extent(3));
      check_aliasing(check, out, "out", q, k, v, s, g, options.initial_keys, options.initial_values);
      check_aliasing(check, options.scores, "options.scores", q, k, v, s, g, out, options.initial_keys,
                     options.initial_values);
      check_aliasing(check, options.final_keys, "options.final_keys", q, k, v, s, g, out, options.scores,
                     options.initial_values);
      check_aliasing(check, options.final_values, "options.final_values", q, k, v, s, g, out, options.scores,
                     options.initial_keys, options.final_keys);
      check_handed_on(check, options.final_keys, "options.final_keys", options.initial_keys, "options.initial_keys");
      check_handed_on(check, options.final_values, "options.final_values", options.initial_values,
                      "options.initial_values");
      check_scratch(check, options.scratch, state_relay_bytes<T>(extents, ranks.size(), bytes_of));
      state_relay_facts(q, k, v.extent(3), s.extent(3), options.scale, options.chunk, options.tag,
                        fingerprint_of_types<ring_gated_slot_options<S>>(), facts);
      return 0;
    });
    or_abort(ranks, [&] {
      run_state_relay<T>(
          check, ranks, extents, options.scratch, options.tag, bytes_of,
          [&](const head_range& piece, T* states, scratch_view work) {
            const index_t d = k.extent(3), e = v.extent(3), head = extents.numbers, entry = extents.heads * head;
            const view<T, 4> keys(states, {extents.batch, extents.heads, d, slots}, {entry, head, slots, 1});
            const view<T, 4> values(states + d * slots, {extents.batch, extents.heads, slots, e}, {entry, head, e, 1});
            const bool first = ranks.rank() == 0;
            gated_slot_options<S> one = piece_options(options);
            one.final_keys = piece.of(keys);
            one.final_values = piece.of(values);
            one.initial_keys = first ? piece.of(options.initial_keys) : view<const T, 4>(one.final_keys);
            one.initial_values = first ? piece.of(options.initial_values) : view<const T, 4>(one.final_values);
            one.scores = piece.of(options.scores, share);
            one.scratch = work;
            gated_slot_forward_on<A, S>(piece.of(q, share), piece.of(k), piece.of(v), piece.of(s), piece.of(g),
                                        piece.of(out, share), one);
            if (options.final_keys) copy_rows<T>(one.final_keys, piece.of(options.final_keys));
            if (options.final_values) copy_rows<T>(one.final_values, piece.of(options.final_values));
          });
    });
  }
}

}  // namespace detail

/// Scratch, in bytes, that ring_gated_slot_forward needs on this rank for tensors of these extents, that many slots and
/// these options: what `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch, transport Transport>
index_t ring_gated_slot_forward_scratch_bytes(const Transport& ranks, const std::type_identity_t<view<const T, 4>>& q,
                                              const std::type_identity_t<view<const T, 4>>& k,
                                              const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                                              const std::type_identity_t<ring_gated_slot_options<T>>& options = {}) {
  return detail::state_relay_bytes<accumulator_t<T>>(detail::slot_relay_states(k, v, slots), ranks.size(),
                                                     detail::slot_piece_bytes<A>(q, k, v, slots, options));
}

/// Gated Slot Attention of a sequence of which every rank holds a part, in the order of the ranks: the result of
/// gated_slot_forward over all of it, each rank getting the rows of its own tokens.
///
/// ranks                     a transport (core/transport.hpp); all ranks make the call, with their own tensors
/// q    [B,H,n,D]            queries of this rank, of the tokens that follow those of the rank before. n may differ, and
///                           may be 0
/// k [B,G,n,D], v [B,G,n,E]  keys and values;  s, g [B,G,n,S]  writes and logs of gates; as in gated_slot_forward
/// out  [B,H,n,E]            output; must not overlap an input
/// options                   see ring_gated_slot_options
///
/// Keys and values of the slots go from rank to rank as the state in ring_gated_linear_forward, B G S (D + E) numbers in
/// all. Cost, legal edges, determinism and errors are as there, with gated_slot_forward in the place of
/// gated_linear_forward.
/// Paper: Zhang et al., Gated Slot Attention for Efficient Linear-Time Sequence Modeling, 2024; Sun et al., Linear
/// Attention Sequence Parallelism, 2024.
template <transport Transport, writable<4> Out>
void ring_gated_slot_forward(Transport& ranks, std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                             std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                             std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                             std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> s,
                             std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                             const std::type_identity_t<ring_gated_slot_options<element_of_t<Out>>>& options = {}) {
  detail::ring_gated_slot_forward_on<default_arch, element_of_t<Out>>(
      ranks, q, k, v, s, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
