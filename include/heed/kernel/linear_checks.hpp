/// Calls of linear attention with feature maps: how they are worked on, and what its operators ask of them.
#pragma once

#include <heed/kernel/feature_rows.hpp>
#include <heed/kernel/recurrence_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Weights scale map(q) . map(k), divided by their sum plus eps if normalised.
HEED_COLD inline void check_features(const checker& check, feature_map map, bool normalise,
                                     const setting<double>& scale, double eps) {
  check.require(map >= feature_map::identity && map <= feature_map::softmax, "options.map", "a feature_map",
                static_cast<int>(map));
  check.require(std::isfinite(eps) && eps >= 0, "options.eps", "a finite number, at least 0", eps);
  check.require(!(normalise && map == feature_map::exp) || scale.or_default(1) > 0, "options.scale",
                "above 0 for a normalised exp", scale.or_default(1));
}

/// Sums of features, [sequences, G, D], given or asked for; of normalised calls alone.
template <class T, class S>
HEED_COLD void check_sum(const checker& check, const view<T, 3>& sum, const char* name, index_t sequences,
                         const view<const S, 4>& k, bool normalise) {
  if (!sum) return;
  check.require(normalise, name, "none unless normalised", "sums");
  check.extent(sum, name, 0, sequences, "sequences");
  check.extent(sum, name, 1, k.extent(1), "G, as k");
  check.extent(sum, name, 2, k.extent(3), "D, as k");
  if constexpr (!std::is_const_v<T>) check_scattered_output(check, sum, name);
}

/// The sums before the first key.
template <class S>
HEED_COLD void check_initial_sums(const checker& check, const view<const accumulator_t<S>, 4>& state,
                                  const view<const accumulator_t<S>, 3>& sum, index_t sequences,
                                  const view<const S, 4>& k, const view<const S, 4>& v, bool normalise) {
  check_state(check, state, "options.initial_state", sequences, k.extent(1), k.extent(3), v.extent(3));
  check_sum(check, sum, "options.initial_sum", sequences, k, normalise);
  if (normalise)
    check.require(static_cast<bool>(state) == static_cast<bool>(sum),
                  state ? "options.initial_sum" : "options.initial_state", "state and sum, or neither", "one of them");
}

/// The position of query 0 among the keys, of calls that are causal; of others 0.
template <class S>
HEED_COLD index_t checked_causal_offset(const checker& check, bool causal, const view<const S, 4>& q,
                                        const view<const S, 4>& k, const setting<index_t>& q_offset,
                                        const sequence_offsets& cu) {
  if (causal) return checked_offset(check, q, k, q_offset, cu, false);
  check.require(!q_offset.given(), "options.q_offset", "none unless causal", q_offset.or_default(0));
  return 0;
}

template <class S>
feature_call<S> linear_feature_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                    const view<S, 4>& out, const linear_options<S>& options, index_t offset) noexcept {
  return {{q,
           k,
           v,
           out,
           {},
           {},
           {},
           options.initial_state,
           options.final_state,
           options.cu_seqlens,
           false,
           options.scale.or_default(options.normalise ? 1 : 1 / std::sqrt(double(q.extent(3)))),
           options.chunk,
           offset},
          options.map,
          options.normalise,
          options.eps,
          options.initial_sum,
          options.final_sum,
          options.denominator};
}

/// The same call for queries [begin, end) alone.
template <class Call>
Call with_queries(Call call, index_t begin, index_t end) noexcept {
  call.q = call.q.slice(2, begin, end);
  call.out = call.out.slice(2, begin, end);
  if (call.denominator) call.denominator = call.denominator.slice(2, begin, end);
  call.offset += begin;
  return call;
}

/// The same call without keys, whose queries see the initial state.
template <class Call>
Call without_keys(Call call) noexcept {
  call.k = call.k.slice(2, 0, 0);
  call.v = call.v.slice(2, 0, 0);
  call.final_state = {};
  if constexpr (requires { call.final_sum; }) call.final_sum = {};
  call.offset = 0;
  return call;
}

/// Calls f with what walks over the chunks of a call: rows are read where they are if nothing is to be made of them.
template <class A, class S, class F>
void with_linear_chunks(const feature_call<S>& call, const F& f) {
  if (call.map == feature_map::identity && !call.normalise)
    f(linear_forward_chunks<A, S, gate_kind::none>(call));
  else if (call.shifted())
    f(linear_forward_chunks<A, S, gate_kind::feature, feature_rows<A, S>>(call));
  else
    f(linear_forward_chunks<A, S, gate_kind::none, feature_rows<A, S>>(call));
}

}  // namespace detail
HEED_ARCH_END
