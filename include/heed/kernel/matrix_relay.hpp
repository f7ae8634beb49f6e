/// Runs a checked call, over several ranks, of a recurrence whose state is a matrix.
#pragma once

#include <heed/core/recurrence_options.hpp>
#include <heed/core/ring_recurrence_options.hpp>
#include <heed/kernel/relay_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// What a call over several ranks needs for one piece of its heads.
template <class S>
recurrence_options<S> piece_options(const ring_recurrence_options<S>& options) noexcept {
  recurrence_options<S> one{};
  one.scale = options.scale;
  one.chunk = options.chunk;
  one.executor = options.executor;
  return one;
}

/// Extents of a call on one rank; `states` of them for each kv head.
struct matrix_relay_extents {
  index_t batch, groups, states, d, e;

  relayed_states relayed() const noexcept { return {batch, groups, states * d * e}; }
};

/// What a call asks of its arguments beside its extents and `gates`, which are checked by then.
template <class S, class Gates, class BytesOf>
HEED_COLD void check_matrix_relay(const checker& check, int rank, int ranks, const view<const S, 4>& q,
                                  const view<const S, 4>& k, const view<const S, 4>& v, const Gates& gates,
                                  const view<S, 4>& out, const matrix_relay_extents& x,
                                  const ring_recurrence_options<S>& options, const BytesOf& bytes_of) {
  check_relayed(check, rank, q, k, options.initial_state.data(), "options.initial_state", options.tag);
  check_state(check, options.initial_state, "options.initial_state", x.batch, x.groups * x.states, x.d, x.e);
  check_state(check, options.final_state, "options.final_state", x.batch, x.groups * x.states, x.d, x.e);
  check_aliasing(check, out, "out", q, k, v, gates, options.initial_state);
  check_aliasing(check, options.final_state, "options.final_state", q, k, v, gates, out);
  check_handed_on(check, options.final_state, "options.final_state", options.initial_state, "options.initial_state");
  check_scratch(check, options.scratch, state_relay_bytes<accumulator_t<S>>(x.relayed(), ranks, bytes_of));
}

/// forward(piece, options) runs the operator on some heads.
template <class S, class Transport, class BytesOf, class Forward>
void run_matrix_relay(const checker& check, Transport& ranks, const matrix_relay_extents& x,
                      const ring_recurrence_options<S>& options, const BytesOf& bytes_of, const Forward& forward) {
  using T = accumulator_t<S>;
  run_state_relay<T>(check, ranks, x.relayed(), options.scratch, options.tag, bytes_of,
                     [&](const head_range& piece, T* numbers, scratch_view work) {
                       const view<T, 4> states(numbers, {x.batch, x.groups * x.states, x.d, x.e});
                       const view<T, 4> state = piece.of(states, x.states);
                       recurrence_options<S> one = piece_options(options);
                       one.initial_state =
                           ranks.rank() == 0 ? piece.of(options.initial_state, x.states) : view<const T, 4>(state);
                       one.final_state = state;
                       one.scratch = work;
                       forward(piece, one);
                       if (options.final_state) copy_rows<T>(state, piece.of(options.final_state, x.states));
                     });
}

}  // namespace detail
HEED_ARCH_END
