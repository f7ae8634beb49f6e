/// What every entry point of the softmax family asks of its arguments before it writes anything.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/float16.hpp>
#include <heed/core/sequence_offsets.hpp>
#include <heed/core/setting.hpp>

#include <climits>
#include <cmath>
#include <type_traits>
#include <utility>

HEED_ARCH_BEGIN
namespace detail {

/// An output of any strides, those of its last axis too.
template <class T>
HEED_COLD void check_scattered_output(const checker& check, const view<T, 3>& output, const char* name) {
  for (int axis = 0; axis < 3; ++axis)
    check.require(output.stride(axis) != 0 || output.extent(axis) <= 1 || is_empty(output), name,
                  "no broadcast axis in an output", "stride 0");
  check.require(distinct_elements(output), name, "an output whose elements are distinct",
                "strides that make them overlap");
}

/// An output [B,H,N] of any strides, if there is one.
template <class T, class S>
HEED_COLD void check_lse(const checker& check, const view<T, 3>& lse, const char* name, const view<const S, 4>& rows,
                         const char* meaning) {
  if (!lse) return;
  for (int axis = 0; axis < 3; ++axis) check.extent(lse, name, axis, rows.extent(axis), meaning);
  check_scattered_output(check, lse, name);
}

/// An input [B,H,N] of any strides.
template <class S, class T>
HEED_COLD void check_row_numbers(const checker& check, const view<const S, 4>& q, const view<const T, 3>& numbers,
                                 const char* name) {
  for (int axis = 0; axis < 3; ++axis) check.extent(numbers, name, axis, q.extent(axis), "as q");
  check.require(numbers.data() != nullptr || is_empty(numbers), name, "data", "a null pointer");
}

/// How scores are made of products.
template <class S>
HEED_COLD void check_scores(const checker& check, const view<const S, 4>& q,
                            const view<const accumulator_t<S>, 1>& sink, const setting<double>& scale, double softcap) {
  check.require(std::isfinite(scale.or_default(1)), "options.scale", "a finite number", scale.or_default(1));
  check.require(std::isfinite(softcap) && softcap >= 0, "options.softcap", "a finite number, at least 0", softcap);
  if (!sink) return;
  check.extent(sink, "options.sink", 0, q.extent(1), "H, as q");
  for (index_t h = 0; h < sink.extent(0); ++h)
    check.require(sink[h] < HUGE_VAL, "options.sink", "numbers below +inf", double(sink[h]));
}

/// A tensor [B,H,N,E] beside q, of some E.
template <class S>
HEED_COLD void check_value_rows(const checker& check, const view<const S, 4>& q,
                                const std::type_identity_t<view<const S, 4>>& rows, const char* name) {
  for (const auto& [axis, meaning] : {std::pair{0, "B, as q"}, {1, "H, as q"}, {2, "N, as q"}})
    check.extent(rows, name, axis, q.extent(axis), meaning);
}

template <class S>
HEED_COLD void check_queries(const checker& check, const view<const S, 4>& q, const view<S, 4>& out,
                             const view<accumulator_t<S>, 3>& lse, const view<const accumulator_t<S>, 1>& sink,
                             const setting<double>& scale, double softcap) {
  check.tensor(q, "q");
  check.output(out, "out");
  check.require(q.extent(3) > 0, "q.extent(3) (D)", "at least 1", q.extent(3));
  check.require(out.extent(3) > 0, "out.extent(3) (E)", "at least 1", out.extent(3));
  check_value_rows(check, q, out, "out");
  check_lse(check, lse, "options.lse", q, "as q");
  check_scores(check, q, sink, scale, softcap);
}

/// Keys [B,G,M,D] of queries.
template <class S>
HEED_COLD void check_key_rows(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                              const char* k_name, bool shared_batch = false) {
  check.tensor(k, k_name);
  if (!(shared_batch && k.extent(0) == 1)) check.extent(k, k_name, 0, q.extent(0), "B, as q");
  if (k.extent(1) == 0 ? q.extent(1) != 0 : q.extent(1) % k.extent(1) != 0) [[unlikely]]
    check.fail_with(text("%s.extent(1) (G)", k_name).c_str(),
                    text("a divisor of H = %lld", static_cast<long long>(q.extent(1))).c_str(),
                    show(k.extent(1)).c_str());
  check.extent(k, k_name, 3, q.extent(3), "D, as q");
}

template <class S>
HEED_COLD void check_keys(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                          const view<const S, 4>& v, const std::type_identity_t<view<const S, 4>>& out,
                          const char* k_name, const char* v_name, bool shared_batch = false) {
  check_key_rows(check, q, k, k_name, shared_batch);
  check.tensor(v, v_name);
  check.extent(v, v_name, 0, k.extent(0), "B, as k");
  check.extent(v, v_name, 1, k.extent(1), "G, as k");
  check.extent(v, v_name, 2, k.extent(2), "M, as k");
  check.extent(v, v_name, 3, out.extent(3), "E, as out");
}

/// What backward knows of its queries. `lse` and `dlse` have any strides.
template <class S>
HEED_COLD void check_backward_queries(const checker& check, const view<const S, 4>& q, const view<const S, 4>& out,
                                      const view<const accumulator_t<S>, 3>& lse, const view<const S, 4>& dout,
                                      const view<S, 4>& dq, const view<const accumulator_t<S>, 3>& dlse,
                                      const view<const accumulator_t<S>, 1>& sink, const setting<double>& scale,
                                      double softcap) {
  check.tensor(q, "q");
  check.tensor(out, "out");
  check.tensor(dout, "dout");
  check.output(dq, "dq");
  check.require(q.extent(3) > 0, "q.extent(3) (D)", "at least 1", q.extent(3));
  check.require(out.extent(3) > 0, "out.extent(3) (E)", "at least 1", out.extent(3));
  check_value_rows(check, q, out, "out");
  check_value_rows(check, q, dout, "dout");
  check.extent(dout, "dout", 3, out.extent(3), "E, as out");
  check_value_rows(check, q, dq, "dq");
  check.extent(dq, "dq", 3, q.extent(3), "D, as q");
  check_row_numbers(check, q, lse, "lse");
  if (dlse) check_row_numbers(check, q, dlse, "options.dlse");
  check_scores(check, q, sink, scale, softcap);
}

template <class S>
HEED_COLD void check_key_gradients(const checker& check, const view<const S, 4>& k, const view<const S, 4>& v,
                                   const view<S, 4>& dk, const view<S, 4>& dv, const char* dk_name,
                                   const char* dv_name) {
  check.output(dk, dk_name);
  check.output(dv, dv_name);
  for (int axis = 0; axis < 4; ++axis) {
    check.extent(dk, dk_name, axis, k.extent(axis), "as k");
    check.extent(dv, dv_name, axis, v.extent(axis), "as v");
  }
}

/// An output [H], if there is one.
template <class S, class T>
HEED_COLD void check_head_gradient(const checker& check, const view<const S, 4>& q, const view<T, 1>& gradient,
                                   const char* name) {
  if (!gradient) return;
  check.extent(gradient, name, 0, q.extent(1), "H, as q");
  check.require(distinct_elements(gradient), name, "an output whose elements are distinct",
                "strides that make them overlap");
}

template <class S, class T>
HEED_COLD void check_sink_gradient(const checker& check, const view<const S, 4>& q, const view<const T, 1>& sink,
                                   const view<T, 1>& dsink) {
  if (!dsink) return;
  check.require(static_cast<bool>(sink), "options.dsink", "none without a sink", "an output");
  check_head_gradient(check, q, dsink, "options.dsink");
}

/// `name`, `gradient_name`: of the two, as in options.bias and options.dbias.
template <class S>
HEED_COLD void check_bias_gradient(const checker& check, const view<const S, 4>& bias, const view<S, 4>& dbias,
                                   const char* name = "options.bias", const char* gradient_name = "options.dbias") {
  if (!dbias) return;
  check.require(static_cast<bool>(bias), gradient_name, "none without a bias", "an output");
  check.output(dbias, gradient_name);
  for (int axis = 0; axis < 4; ++axis)
    check.extent(dbias, gradient_name, axis, bias.extent(axis), text("as %s", name).c_str());
}

/// Positions are handed to mods as int.
HEED_COLD inline void check_positions(const checker& check, index_t queries, index_t keys,
                                      const setting<index_t>& q_offset, index_t kv_offset) {
  constexpr index_t limit = INT_MAX / 2;
  check.require(queries <= limit, "q.extent(2) (N)", "at most 2^30 - 1", queries);
  check.require(keys <= limit, "k.extent(2) (M)", "at most 2^30 - 1", keys);
  const index_t first = q_offset.or_default(keys - queries);
  check.require(first >= -limit && first <= limit - queries, "options.q_offset", "positions within +-2^30", first);
  check.require(kv_offset >= -limit && kv_offset <= limit - keys, "options.kv_offset", "positions within +-2^30",
                kv_offset);
}

HEED_COLD inline void check_window(const checker& check, index_t left, index_t right) {
  check.require(left >= -1, "options.window_left", "at least -1 (unbounded)", left);
  check.require(right >= -1, "options.window_right", "at least -1 (unbounded)", right);
}

HEED_COLD inline void check_offsets(const checker& check, const sequence_offsets& cu, const char* name, index_t rows) {
  check.require(cu.size() >= 1, name, "at least one offset", cu.size());
  check.require(cu.at(0) == 0, name, "offsets that start at 0", cu.at(0));
  for (index_t s = 1; s < cu.size(); ++s)
    if (cu.at(s) < cu.at(s - 1)) [[unlikely]]
      check.require(false, name, "offsets that do not decrease", cu.at(s));
  if (cu.at(cu.size() - 1) > rows) [[unlikely]]
    check.fail_with(name, text("offsets of at most %lld rows", static_cast<long long>(rows)).c_str(),
                    show(cu.at(cu.size() - 1)).c_str());
}

template <class S>
HEED_COLD void check_packed(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                            const sequence_offsets& cu_q, const sequence_offsets& cu_k, bool bias) {
  if (!cu_q && !cu_k) return;
  check.require(static_cast<bool>(cu_q), "options.cu_seqlens_q", "offsets, as cu_seqlens_k is given", "none");
  check.require(static_cast<bool>(cu_k), "options.cu_seqlens_k", "offsets, as cu_seqlens_q is given", "none");
  check.require(q.extent(0) == 1, "q.extent(0) (B)", "1 in a packed batch", q.extent(0));
  check.require(!bias, "options.bias", "none in a packed batch (use a score mod)", "a bias");
  check_offsets(check, cu_q, "options.cu_seqlens_q", q.extent(2));
  check_offsets(check, cu_k, "options.cu_seqlens_k", k.extent(2));
  check.require(cu_q.size() == cu_k.size(), "options.cu_seqlens_k", "as many offsets as cu_seqlens_q", cu_k.size());
}

HEED_COLD inline void check_lengths(const checker& check, const sequence_lengths& lengths, const char* name,
                                    index_t sequences, index_t most) {
  if (!lengths) return;
  check.require(lengths.size() == sequences, name, "one for each batch entry", lengths.size());
  for (index_t b = 0; b < sequences; ++b) {
    if (lengths.at(b) >= 0 && lengths.at(b) <= most) [[likely]]
      continue;
    check.fail_with(name, text("0 to M = %lld", static_cast<long long>(most)).c_str(), show(lengths.at(b)).c_str());
  }
}

/// A cache whose sequences are the batch entries of q, or those that are packed into it.
template <class S, class C>
HEED_COLD void check_cache(const checker& check, const view<const S, 4>& q, const C& cache, const view<S, 4>& out,
                           const setting<index_t>& q_offset, index_t kv_offset, const sequence_offsets& cu_q = {}) {
  const auto equal = [&](index_t got, const char* name, index_t expected, const char* meaning) {
    if (got != expected) [[unlikely]]
      check.fail_with(name, text("%lld (%s)", static_cast<long long>(expected), meaning).c_str(), show(got).c_str());
  };
  if (cu_q) {
    equal(q.extent(0), "q.extent(0) (B)", 1, "in a packed batch");
    check_offsets(check, cu_q, "options.cu_seqlens_q", q.extent(2));
    equal(cache.batch(), "cache.batch()", cu_q.size() - 1, "sequences, as cu_seqlens_q");
  } else {
    equal(cache.batch(), "cache.batch()", q.extent(0), "B, as q");
  }
  equal(cache.features(), "cache.features()", q.extent(3), "D, as q");
  equal(cache.value_features(), "cache.value_features()", out.extent(3), "E, as out");
  const index_t groups = cache.kv_heads();
  if (groups == 0 ? q.extent(1) != 0 : q.extent(1) % groups != 0) [[unlikely]]
    check.fail_with("cache.kv_heads() (G)", text("a divisor of H = %lld", static_cast<long long>(q.extent(1))).c_str(),
                    show(groups).c_str());
  for (index_t b = 0; b < cache.batch(); ++b) check_positions(check, q.extent(2), cache.end(b), q_offset, kv_offset);
}

/// The bias as [B,H,N,M], axes of extent 1 with stride 0.
template <class S>
view<const S, 4> broadcast_bias(const checker& check, view<const S, 4> bias, index_t batch, index_t heads,
                                index_t queries, index_t keys, const char* name = "options.bias") {
  if (!bias) return bias;
  check.tensor(bias, name);
  const index_t full[4] = {batch, heads, queries, keys};
  for (int axis = 0; axis < 4; ++axis) {
    if (bias.extent(axis) == full[axis] && full[axis] != 1) continue;
    if (bias.extent(axis) != 1) [[unlikely]]
      check.fail_with(text("%s.extent(%d)", name, axis).c_str(),
                      text("1 or %lld", static_cast<long long>(full[axis])).c_str(), show(bias.extent(axis)).c_str());
    bias = bias.broadcast(axis, full[axis]);
  }
  return bias;
}

/// An output that is given must not overlap any of the other tensors.
template <class Output, class... Others>
HEED_COLD void check_aliasing(const checker& check, const Output& output, const char* name, const Others&... others) {
  if (!output) return;
  (check.no_overlap(output, name, others, "another tensor of the call"), ...);
}

}  // namespace detail
HEED_ARCH_END
