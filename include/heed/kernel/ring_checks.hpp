/// What the ring operators ask of their arguments, and tell other ranks about them.
#pragma once

#include <heed/core/ring_options.hpp>
#include <heed/kernel/ring_agreement.hpp>
#include <heed/kernel/ring_plan.hpp>
#include <heed/kernel/softmax_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// The layouts of a call, checked against its transport and its tensors.
template <class S, class Options>
HEED_COLD ring_plan plan_ring(const checker& check, int rank, int ranks, const view<const S, 4>& q,
                              const view<const S, 4>& k, const Options& options) {
  const token_layout keys = options.kv_layout ? options.kv_layout : options.layout;
  check.require(static_cast<bool>(options.layout), "options.layout", "a layout", "none");
  check.require(options.layout.ranks() == ranks, "options.layout", text("one of %d ranks", ranks).c_str(),
                options.layout.ranks());
  check.require(keys.ranks() == ranks, "options.kv_layout", text("one of %d ranks", ranks).c_str(), keys.ranks());
  check.extent(q, "q", 2, options.layout.count(rank), "the tokens that options.layout gives this rank");
  check.extent(k, "k", 2, keys.count(rank), "the tokens that the layout gives this rank");
  check_positions(
      check, options.layout.tokens(), keys.tokens(),
      options.q_offset.given() ? options.q_offset : setting<index_t>(keys.tokens() - options.layout.tokens()),
      options.kv_offset);
  check.require(options.tag >= 0 && options.tag < largest_tag, "options.tag", "0 to 32766", options.tag);
  return {options.layout, keys, options.q_offset.or_default(keys.tokens() - options.layout.tokens()), options.kv_offset,
          rank};
}

/// What must be the same on all ranks.
template <class S, class Options, class... Mods>
HEED_COLD void state_ring_facts(const ring_plan& plan, const view<const S, 4>& q, const view<const S, 4>& k,
                                index_t value_features, const Options& options, ring_fact* facts) noexcept {
  const auto number = [](auto x) { return static_cast<std::uint64_t>(x); };
  const auto real = [](double x) { return __builtin_bit_cast(std::uint64_t, x); };
  bool sink_gradient = false;
  if constexpr (requires { options.dsink; }) sink_gradient = static_cast<bool>(options.dsink);
  const ring_fact all[ring_fact_count] = {{"operator and element type", fingerprint_of_types<Options>()},
                                          readable_fact("q.extent(0) (B)", q.extent(0)),
                                          readable_fact("q.extent(1) (H)", q.extent(1)),
                                          readable_fact("q.extent(3) (D)", q.extent(3)),
                                          readable_fact("k.extent(1) (G)", k.extent(1)),
                                          readable_fact("v.extent(3) (E)", value_features),
                                          {"options.layout", fingerprint_of(plan.queries)},
                                          {"options.kv_layout", fingerprint_of(plan.keys)},
                                          {"options.scale", real(options.scale.or_default(0))},
                                          {"options.softcap", real(options.softcap)},
                                          {"options.bias", number(static_cast<bool>(options.bias))},
                                          {"options.sink", number(static_cast<bool>(options.sink))},
                                          {"options.dsink", number(sink_gradient)},
                                          readable_fact("options.window_left", options.window_left),
                                          readable_fact("options.window_right", options.window_right),
                                          readable_fact("options.q_offset", plan.q_offset),
                                          readable_fact("options.kv_offset", plan.kv_offset),
                                          readable_fact("options.tag", options.tag),
                                          {"mods", fingerprint_of_types<Mods...>()}};
  std::copy_n(all, ring_fact_count, facts);
}

/// The bias of this rank's rows as [B,H,n,M], axes of extent 1 with stride 0.
template <class S>
view<const S, 4> broadcast_ring_bias(const checker& check, const ring_plan& plan, const view<const S, 4>& bias,
                                     const view<const S, 4>& q) {
  return broadcast_bias(check, bias, q.extent(0), q.extent(1), q.extent(2), plan.keys.tokens());
}

}  // namespace detail
HEED_ARCH_END
