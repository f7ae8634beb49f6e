/// Gated linear attention over a sequence that is spread over several ranks: a composite of gated_linear_forward and a
/// transport.
#pragma once

#include <heed/core/transport.hpp>
#include <heed/kernel/matrix_relay.hpp>
#include <heed/ops/linear/gated_forward.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
matrix_relay_extents gated_relay_extents(const view<const S, 4>& k, const view<const S, 4>& v) noexcept {
  return {k.extent(0), k.extent(1), 1, k.extent(3), v.extent(3)};
}

/// Bytes of scratch of a piece.
template <class A, class S>
auto gated_piece_bytes(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                       const ring_recurrence_options<S>& options) noexcept {
  return [=](const head_range& piece) {
    return gated_linear_forward_scratch_bytes<S, A>(piece.of(q, q.extent(1) / k.extent(1)), piece.of(k), piece.of(v),
                                                    piece_options(options));
  };
}

/// ring_gated_linear_forward for an instruction set of the caller's choice.
template <class A, gate_kind Kind, class S, class Transport>
void ring_gated_linear_forward_on(Transport& ranks, view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                                  gate_view<Kind, const accumulator_t<S>> g, view<S, 4> out,
                                  const ring_recurrence_options<S>& options) {
  static_assert(element<S>,
                "heed::ring_gated_linear_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("ring_gated_linear_forward");
    const index_t share = k.extent(1) > 0 ? q.extent(1) / k.extent(1) : 1;
    const matrix_relay_extents extents = gated_relay_extents(k, v);
    const auto bytes_of = gated_piece_bytes<A>(q, k, v, options);
    agree(check, ranks, [&](ring_fact* facts) {
      check_recurrence(check, q, k, v, out, options.scale, options.chunk);
      check_gates<Kind>(check, g, k);
      check_matrix_relay(check, ranks.rank(), ranks.size(), q, k, v, g, out, extents, options, bytes_of);
      state_relay_facts(q, k, v.extent(3), 0, options.scale, options.chunk, options.tag,
                        fingerprint_of_types<recurrence_options<S>, std::integral_constant<gate_kind, Kind>>(), facts);
      return 0;
    });
    or_abort(ranks, [&] {
      run_matrix_relay(check, ranks, extents, options, bytes_of,
                       [&](const head_range& piece, const recurrence_options<S>& one) {
                         gated_linear_forward_on<A, Kind, S>(piece.of(q, share), piece.of(k), piece.of(v), piece.of(g),
                                                             piece.of(out, share), one);
                       });
    });
  }
}

}  // namespace detail

/// Scratch, in bytes, that ring_gated_linear_forward needs on this rank for tensors of these extents and these options:
/// what `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch, transport Transport>
index_t ring_gated_linear_forward_scratch_bytes(const Transport& ranks, const std::type_identity_t<view<const T, 4>>& q,
                                                const std::type_identity_t<view<const T, 4>>& k,
                                                const std::type_identity_t<view<const T, 4>>& v,
                                                const std::type_identity_t<ring_recurrence_options<T>>& options = {}) {
  return detail::state_relay_bytes<accumulator_t<T>>(detail::gated_relay_extents(k, v).relayed(), ranks.size(),
                                                     detail::gated_piece_bytes<A>(q, k, v, options));
}

/// Gated linear attention of a sequence of which every rank holds a part, in the order of the ranks: the result of
/// gated_linear_forward over all of it, each rank getting the rows of its own tokens.
///
/// ranks           a transport (core/transport.hpp); all ranks make the call, with their own tensors
/// q    [B,H,n,D]  queries of this rank, of the tokens that follow those of the rank before. n may differ, and may be 0
/// k    [B,G,n,D]  keys;  v [B,G,n,E]  values;  g [B,G,n,D] or [B,G,n]  logs of gates; as in gated_linear_forward
/// out  [B,H,n,E]  output; must not overlap an input
/// options         see ring_recurrence_options
///
/// The state is all that a rank needs of the tokens before its own. It comes from the rank before in pieces of some
/// heads, and goes on to the next as soon as those heads are done, while this rank works on the next piece: of P ranks
/// all are busy but for the time of P - 1 pieces. There are 8 P pieces, or B G if that is less.
///
/// Legal edges: ranks without tokens; P = 1, which uses nothing of the transport but rank() and size().
/// Cost: that of gated_linear_forward for own tokens. Messages: one a piece, B G D E numbers in all, float (double for
/// double). Scratch: as many, and that of gated_linear_forward (ring_gated_linear_forward_scratch_bytes).
/// Deterministic: bit-equal for any executor, number of threads and speed of messages; and, where parts are multiples of
/// the chunk, for any number of ranks.
/// Accuracy: as gated_linear_forward.
/// Throws heed::invalid_argument on all ranks, before anything is sent or written: all that gated_linear_forward throws
/// for; other keys than queries; an initial state on a rank that is not the first; extents or options that differ between
/// ranks; and where another rank was refused its arguments (refused_elsewhere). Throws transport_error where ranks cannot
/// go on. Whatever one rank throws during the call, those that still need a state of it throw transport_error, others at
/// their next call of the transport; outputs are then unspecified.
/// Paper: Yang, Wang, Shen, Panda, Kim, Gated Linear Attention Transformers with Hardware-Efficient Training, 2024; Sun et
/// al., Linear Attention Sequence Parallelism, 2024, for the states that go from rank to rank.
template <transport Transport, writable<4> Out>
void ring_gated_linear_forward(Transport& ranks, std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                               std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                               std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                               std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                               const std::type_identity_t<ring_recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::ring_gated_linear_forward_on<default_arch, detail::gate_kind::feature, element_of_t<Out>>(
      ranks, q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// The same with one gate a token, g [B,G,n].
template <transport Transport, writable<4> Out>
void ring_gated_linear_forward(Transport& ranks, std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                               std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                               std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                               std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 3>> g, Out&& out,
                               const std::type_identity_t<ring_recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::ring_gated_linear_forward_on<default_arch, detail::gate_kind::token, element_of_t<Out>>(
      ranks, q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
