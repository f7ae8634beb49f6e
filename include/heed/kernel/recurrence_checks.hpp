/// What the operators of a recurrence ask of their arguments.
#pragma once

#include <heed/core/recurrence_options.hpp>
#include <heed/kernel/softmax_checks.hpp>

#include <algorithm>

HEED_ARCH_BEGIN
namespace detail {

/// A packed batch of `tokens` tokens, all of which belong to a sequence.
template <class S>
HEED_COLD void check_packed_tokens(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                   const sequence_offsets& cu) {
  if (!cu) return;
  check.require(q.extent(0) == 1, "q.extent(0) (B)", "1 in a packed batch", q.extent(0));
  check.extent(q, "q", 2, k.extent(2), "M, as k, in a packed batch");
  check_offsets(check, cu, "options.cu_seqlens", k.extent(2));
  check.require(cu.at(cu.size() - 1) == k.extent(2), "options.cu_seqlens", "N as the last offset",
                cu.at(cu.size() - 1));
}

/// A state, given or asked for: extents [sequences, heads, rows, columns].
template <class T>
HEED_COLD void check_state(const checker& check, const view<T, 4>& state, const char* name, index_t sequences,
                           index_t heads, index_t rows, index_t columns) {
  if (!state) return;
  check.extent(state, name, 0, sequences, "sequences");
  check.extent(state, name, 1, heads, "heads that have a state");
  check.extent(state, name, 2, rows, "rows of a state");
  check.extent(state, name, 3, columns, "columns of a state");
  if constexpr (std::is_const_v<T>)
    check.tensor(state, name);
  else
    check.output(state, name);
}

/// A state that a call cannot do without.
template <class T>
HEED_COLD void check_given_state(const checker& check, const view<T, 4>& state, const char* name, index_t sequences,
                                 index_t heads, index_t rows, index_t columns) {
  check.require(static_cast<bool>(state) || sequences * heads * rows * columns == 0, name, "data", "a null pointer");
  check_state(check, state, name, sequences, heads, rows, columns);
}

/// A final state may be the memory of the initial one, element by element, and overlap it in no other way.
template <class T, int Rank>
HEED_COLD void check_handed_on(const checker& check, const view<T, Rank>& final_state, const char* final_name,
                               const view<const T, Rank>& initial_state, const char* initial_name) {
  bool same = final_state.data() == initial_state.data();
  for (int axis = 0; axis < Rank; ++axis)
    same = same && (final_state.stride(axis) == initial_state.stride(axis) || final_state.extent(axis) <= 1);
  if (!same) check.no_overlap(final_state, final_name, initial_state, initial_name);
}

/// Keys and values of queries, and outputs beside them.
template <class S>
HEED_COLD void check_recurrence(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                const view<const S, 4>& v, const view<S, 4>& out, const setting<double>& scale,
                                index_t chunk) {
  check_queries(check, q, out, view<accumulator_t<S>, 3>{}, view<const accumulator_t<S>, 1>{}, scale, 0);
  check_keys(check, q, k, v, out, "k", "v");
  check.require(chunk >= 1, "options.chunk", "at least 1", chunk);
}

/// The position of query 0 among the keys.
template <class S>
HEED_COLD index_t checked_offset(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                 const setting<index_t>& q_offset, const sequence_offsets& cu, bool reverse) {
  const index_t offset = q_offset.or_default(k.extent(2) - q.extent(2));
  check.require(offset <= k.extent(2) - q.extent(2), "options.q_offset", "at most M - N: a key for every query",
                offset);
  check.require(!(reverse || cu) || (offset == 0 && q.extent(2) == k.extent(2)), "options.q_offset",
                "0 and N = M in reverse or in a packed batch", offset);
  // Farther before the keys than all queries is as far as all queries.
  return std::max(offset, -q.extent(2));
}

/// Inputs, upstream gradient and gradients.
template <class S>
HEED_COLD void check_recurrence_gradients(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                          const view<const S, 4>& v, const view<const S, 4>& dout, const view<S, 4>& dq,
                                          const view<S, 4>& dk, const view<S, 4>& dv, const setting<double>& scale,
                                          index_t chunk, const sequence_offsets& cu, bool cross = false) {
  check.tensor(q, "q");
  check.tensor(dout, "dout");
  check.require(q.extent(3) > 0, "q.extent(3) (D)", "at least 1", q.extent(3));
  check.require(dout.extent(3) > 0, "dout.extent(3) (E)", "at least 1", dout.extent(3));
  check_value_rows(check, q, dout, "dout");
  check_key_rows(check, q, k, "k");
  if (!cross) check.extent(k, "k", 2, q.extent(2), "N, as q");
  check.tensor(v, "v");
  for (int axis = 0; axis < 3; ++axis) check.extent(v, "v", axis, k.extent(axis), "as k");
  check.extent(v, "v", 3, dout.extent(3), "E, as dout");
  check.output(dq, "dq");
  for (int axis = 0; axis < 4; ++axis) check.extent(dq, "dq", axis, q.extent(axis), "as q");
  check_key_gradients(check, k, v, dk, dv, "dk", "dv");
  check.require(std::isfinite(scale.or_default(1)), "options.scale", "a finite number", scale.or_default(1));
  check.require(chunk >= 1, "options.chunk", "at least 1", chunk);
  check_packed_tokens(check, q, k, cu);
}

/// The memory of tensors of any type and rank. Not a std::tuple of views, whose functions would be symbols that
/// translation units for different machines share.
struct footprint_list {
  static constexpr int most_inputs = 16, most_outputs = 8;
  footprint items[most_inputs + most_outputs];
  int count = 0;

  template <class T, int Rank>
  void add(const view<T, Rank>& tensor) noexcept {
    items[count++] = footprint_of(tensor);
  }
};

template <class... Views>
footprint_list memory_of(const Views&... views) noexcept {
  static_assert(sizeof...(Views) <= footprint_list::most_inputs);
  footprint_list list;
  (list.add(views), ...);
  return list;
}

HEED_COLD inline void check_output_apart(const checker& check, const footprint_list& others, const footprint& output,
                                         const char* name) {
  for (int i = 0; i < others.count; ++i)
    check.require(disjoint(output, others.items[i]), name, "no overlap with another tensor of the call",
                  "overlapping memory");
}

/// No output may overlap an input or another output: after the inputs come outputs and their names in turn.
inline void check_apart(const checker&, const footprint_list&) noexcept {}
template <class Output, class... Others>
HEED_COLD void check_apart(const checker& check, footprint_list others, const Output& output, const char* name,
                           const Others&... outputs) {
  static_assert(sizeof...(Others) / 2 < footprint_list::most_outputs);
  check_output_apart(check, others, footprint_of(output), name);
  others.add(output);
  check_apart(check, others, outputs...);
}

}  // namespace detail
HEED_ARCH_END
