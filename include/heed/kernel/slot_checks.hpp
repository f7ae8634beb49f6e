/// What the operators of Gated Slot Attention ask of their arguments.
#pragma once

#include <heed/core/gated_slot_options.hpp>
#include <heed/kernel/recurrence_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Write strengths, or what they are made of, [B,G,N,S], of keys.
template <class S, class T>
HEED_COLD void check_slot_strengths(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                    const view<const T, 4>& s) {
  check.extent(k, "k", 2, q.extent(2), "N, as q");
  check.tensor(s, "s");
  for (int axis = 0; axis < 3; ++axis) check.extent(s, "s", axis, k.extent(axis), "as k");
  check.require(s.extent(3) >= 1, "s.extent(3) (S)", "at least 1", s.extent(3));
}

/// The same with gates.
template <class S, class T>
HEED_COLD void check_slot_writes(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                                 const view<const T, 4>& s, const view<const T, 4>& g) {
  check_slot_strengths(check, q, k, s);
  check.tensor(g, "g");
  for (int axis = 0; axis < 4; ++axis) check.extent(g, "g", axis, s.extent(axis), "as s");
}

/// Scores of the slots, [B,H,N,S], an input or an output.
template <class S, class T>
HEED_COLD void check_slot_scores(const checker& check, const view<const S, 4>& q, const view<T, 4>& scores,
                                 const char* name, index_t slots) {
  for (int axis = 0; axis < 3; ++axis) check.extent(scores, name, axis, q.extent(axis), "as q");
  check.extent(scores, name, 3, slots, "S, as s");
  if constexpr (std::is_const_v<T>)
    check.tensor(scores, name);
  else
    check.output(scores, name);
}

/// Keys and values of the slots: both or none.
template <class T, class S>
HEED_COLD void check_slots(const checker& check, const view<T, 4>& keys, const char* keys_name,
                           const view<T, 4>& values, const char* values_name, index_t sequences,
                           const view<const S, 4>& k, const view<const S, 4>& v, index_t slots) {
  check.require(static_cast<bool>(keys) == static_cast<bool>(values), keys ? values_name : keys_name,
                "keys and values of the slots, or neither", "one of them");
  check_state(check, keys, keys_name, sequences, k.extent(1), k.extent(3), slots);
  check_state(check, values, values_name, sequences, k.extent(1), slots, v.extent(3));
}

}  // namespace detail
HEED_ARCH_END
