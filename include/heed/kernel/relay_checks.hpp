/// What recurrences over several ranks ask of their arguments beside what they ask on one, and tell other ranks.
#pragma once

#include <heed/kernel/recurrence_checks.hpp>
#include <heed/kernel/state_relay.hpp>

#include <algorithm>
#include <iterator>

HEED_ARCH_BEGIN
namespace detail {

/// Arguments that must be the same on all ranks. `kind`: fingerprint of what else there is to know of the operator.
template <class S>
HEED_COLD void state_relay_facts(const view<const S, 4>& q, const view<const S, 4>& k, index_t value_features,
                                 index_t slots, const setting<double>& scale, index_t chunk, int tag,
                                 std::uint64_t kind, ring_fact* facts) noexcept {
  const ring_fact all[] = {{"operator and element type", kind},
                           readable_fact("q.extent(0) (B)", q.extent(0)),
                           readable_fact("q.extent(1) (H)", q.extent(1)),
                           readable_fact("q.extent(3) (D)", q.extent(3)),
                           readable_fact("k.extent(1) (G)", k.extent(1)),
                           readable_fact("v.extent(3) (E)", value_features),
                           readable_fact("s.extent(3) (S)", slots),
                           {"options.scale", __builtin_bit_cast(std::uint64_t, scale.or_default(0))},
                           readable_fact("options.chunk", chunk),
                           readable_fact("options.tag", tag)};
  std::copy(std::begin(all), std::end(all), facts);
}

/// Tokens of this rank are queries and keys alike.
template <class S>
HEED_COLD void check_relayed(const checker& check, int rank, const view<const S, 4>& q, const view<const S, 4>& k,
                             const void* initial, const char* initial_name, int tag) {
  check.extent(k, "k", 2, q.extent(2), "n, as q");
  check.require(rank == 0 || initial == nullptr, initial_name, "one on rank 0 alone", "one");
  check.require(tag >= 0 && tag <= largest_tag, "options.tag", "0 to 32767", tag);
}

}  // namespace detail
HEED_ARCH_END
