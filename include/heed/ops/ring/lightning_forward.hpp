/// Lightning Attention over a sequence that is spread over several ranks: a composite of lightning_forward and a
/// transport.
#pragma once

#include <heed/core/transport.hpp>
#include <heed/kernel/matrix_relay.hpp>
#include <heed/ops/linear/lightning.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// A query head has a state of its own.
template <class S>
matrix_relay_extents lightning_relay_extents(const view<const S, 4>& q, const view<const S, 4>& k,
                                             const view<const S, 4>& v) noexcept {
  return {k.extent(0), k.extent(1), k.extent(1) > 0 ? q.extent(1) / k.extent(1) : 1, k.extent(3), v.extent(3)};
}

/// Bytes of scratch of a piece.
template <class A, class S>
auto lightning_piece_bytes(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                           const ring_recurrence_options<S>& options) noexcept {
  return [=](const head_range& piece) {
    return lightning_forward_scratch_bytes<S, A>(piece.of(q, q.extent(1) / k.extent(1)), piece.of(k), piece.of(v),
                                                 piece_options(options));
  };
}

/// ring_lightning_forward for an instruction set of the caller's choice.
template <class A, class S, class Transport>
void ring_lightning_forward_on(Transport& ranks, view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                               view<const accumulator_t<S>, 1> slopes, view<S, 4> out,
                               const ring_recurrence_options<S>& options) {
  static_assert(element<S>,
                "heed::ring_lightning_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("ring_lightning_forward");
    const matrix_relay_extents extents = lightning_relay_extents(q, k, v);
    const auto bytes_of = lightning_piece_bytes<A>(q, k, v, options);
    agree(check, ranks, [&](ring_fact* facts) {
      check_recurrence(check, q, k, v, out, options.scale, options.chunk);
      check_slopes(check, slopes, q.extent(1));
      check_matrix_relay(check, ranks.rank(), ranks.size(), q, k, v, slopes, out, extents, options, bytes_of);
      fingerprint kind;
      kind.add(fingerprint_of_types<ring_recurrence_options<S>>());
      for (index_t h = 0; h < q.extent(1); ++h) kind.add(__builtin_bit_cast(std::uint64_t, double(slopes[h])));
      state_relay_facts(q, k, v.extent(3), 0, options.scale, options.chunk, options.tag, kind.value(), facts);
      return 0;
    });
    or_abort(ranks, [&] {
      run_matrix_relay(
          check, ranks, extents, options, bytes_of, [&](const head_range& piece, const recurrence_options<S>& one) {
            lightning_forward_on<A, S>(piece.of(q, extents.states), piece.of(k), piece.of(v),
                                       slopes.slice(0, piece.first * extents.states, piece.end * extents.states),
                                       piece.of(out, extents.states), one);
          });
    });
  }
}

}  // namespace detail

/// Scratch, in bytes, that ring_lightning_forward needs on this rank for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch, transport Transport>
index_t ring_lightning_forward_scratch_bytes(const Transport& ranks, const std::type_identity_t<view<const T, 4>>& q,
                                             const std::type_identity_t<view<const T, 4>>& k,
                                             const std::type_identity_t<view<const T, 4>>& v,
                                             const std::type_identity_t<ring_recurrence_options<T>>& options = {}) {
  return detail::state_relay_bytes<accumulator_t<T>>(detail::lightning_relay_extents(q, k, v).relayed(), ranks.size(),
                                                     detail::lightning_piece_bytes<A>(q, k, v, options));
}

/// Lightning Attention of a sequence of which every rank holds a part, in the order of the ranks: the result of
/// lightning_forward over all of it, each rank getting the rows of its own tokens.
///
/// ranks, q, k, v, out, options   as in ring_gated_linear_forward
/// slopes [H]                     how fast states fade, the same on all ranks; as in lightning_forward
///
/// States go from rank to rank as in ring_gated_linear_forward, B H D E numbers in all. Cost, legal edges, determinism
/// and errors are as there; besides it throws for slopes that lightning_forward refuses, or that differ between ranks.
/// Paper: Qin et al., Lightning Attention-2, 2024; Sun et al., Linear Attention Sequence Parallelism, 2024.
template <transport Transport, writable<4> Out>
void ring_lightning_forward(Transport& ranks, std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                            std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                            std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                            std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 1>> slopes, Out&& out,
                            const std::type_identity_t<ring_recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::ring_lightning_forward_on<default_arch, element_of_t<Out>>(
      ranks, q, k, v, slopes, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
