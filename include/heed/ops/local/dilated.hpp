/// Dilated windows: softmax attention to every step-th key, at the cost of the keys that are seen.
#pragma once

#include <heed/core/dilated_options.hpp>
#include <heed/core/error.hpp>
#include <heed/kernel/residue_class.hpp>
#include <heed/kernel/softmax_backward_run.hpp>
#include <heed/kernel/softmax_checks.hpp>
#include <heed/kernel/softmax_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// How the queries and keys of a call fall into classes. Classes without a query are not numbered.
struct dilation {
  index_t step, reach;
  index_t queries, keys;        // N, M
  index_t q_offset, kv_offset;  // positions of the first ones

  index_t classes() const noexcept { return std::min(step, queries); }
  residue_class at(index_t number) const noexcept { return class_of_position(step, q_offset + number); }
  /// Tokens of a class that a query sees on either side.
  index_t window() const noexcept { return reach < 0 ? -1 : reach / step; }
  /// Whether no query is of the class of key j.
  bool is_idle(index_t j) const noexcept {
    return class_of_position(step, kv_offset + j - q_offset).residue >= classes();
  }
};

template <class S, class Options>
dilation dilation_of(const view<const S, 4>& q, const view<const S, 4>& k, const Options& options) noexcept {
  return {
      options.step,     options.reach, q.extent(2), k.extent(2), options.q_offset.or_default(k.extent(2) - q.extent(2)),
      options.kv_offset};
}

/// The keys of one class as a segment of a call of its own.
template <class S, class Mask>
softmax_segment_rows<accumulator_t<S>, dense_keys<S>, mask_of_class<Mask>> segment_of_class(
    const dilation& d, const residue_class& tokens, const view<const S, 4>& k, const view<const S, 4>& v,
    const mask_of_class<Mask>& mask) noexcept {
  const auto own = tokens.of(d.keys, d.kv_offset);
  return {{rows_of_class(k, own, d.step), rows_of_class(v, own, d.step)},
          {d.window(), d.window(), mask},
          tokens.of(d.queries, d.q_offset).token,
          own.token,
          {},
          1};
}

template <class Mask>
mask_of_class<Mask> mask_for(const Mask& mask, const residue_class& tokens) noexcept {
  return {mask, static_cast<int>(tokens.step), static_cast<int>(tokens.residue)};
}

HEED_COLD inline void check_dilation(const checker& check, index_t step, index_t reach) {
  // Positions of the lanes that fill up a tile stay within int.
  check.require(step >= 1 && step <= index_t(1) << 20, "options.step", "1 to 2^20", step);
  check.require(reach >= -1, "options.reach", "at least -1 (unbounded)", reach);
}

/// Where there are many classes each is a task of its own; few are run one after the other, and cut into tasks.
inline constexpr index_t many_classes = 8;

/// Scratch, in bytes, of a call of which one class needs bytes(executor).
template <class Bytes>
index_t bytes_of_classes(const dilation& d, const Bytes& bytes, const executor_ref& where) {
  if (d.classes() < many_classes) return bytes(where);
  return scratch_total(bytes(serial()), where.concurrency);
}

/// solve(number, scratch, executor) for each class.
template <class Bytes, class Solve>
void for_each_class(const checker& check, const dilation& d, scratch_view scratch, const Bytes& bytes,
                    const executor_ref& where, const Solve& solve) {
  const index_t total = bytes_of_classes(d, bytes, where);
  const scratch_block memory(check, scratch, total);
  if (d.classes() < many_classes) {
    for (index_t number = 0; number < d.classes(); ++number) solve(number, {memory.data(), total}, where);
    return;
  }
  const index_t share = round_up(bytes(serial()), cache_line);
  auto task = [&](index_t number, index_t worker) { solve(number, {memory.data() + worker * share, share}, serial()); };
  for_each_task(where, d.classes(), task);
}

template <class A, class S>
index_t dilated_forward_bytes(index_t features, index_t value_features, const executor_ref& where) {
  const index_t share =
      softmax_worker_bytes<S, A>(features, value_features, !std::is_same_v<S, accumulator_t<S>>, false, false);
  return scratch_total(share, where.concurrency);
}

/// dilated_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S, class Mask>
void dilated_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                        const dilated_options<S>& options, const Mask& mask) {
  const checker check("dilated_forward");
  check_queries(check, q, out, options.lse, options.sink, options.scale, options.softcap);
  check_keys(check, q, k, v, out, "k", "v");
  check_positions(check, q.extent(2), k.extent(2), options.q_offset, options.kv_offset);
  check_dilation(check, options.step, options.reach);
  check_aliasing(check, out, "out", q, k, v);
  check_aliasing(check, options.lse, "options.lse", q, k, v, out);

  const dilation d = dilation_of(q, k, options);
  const auto solve = [&](index_t number, scratch_view scratch, const executor_ref& where) {
    const residue_class tokens = d.at(number);
    const auto own = tokens.of(d.queries, d.q_offset);
    const softmax_rows<S> rows{rows_of_class(q, own, d.step),
                               rows_of_class(out, own, d.step),
                               rows_of_class(options.lse, own, d.step),
                               options.sink,
                               {},
                               options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                               {}};
    const auto visible = mask_for(mask, tokens);
    const auto segment = segment_of_class(d, tokens, k, v, visible);
    run_softmax<A>(
        check, rows, [&](const auto& f) { f(segment); }, false, find_score_mods(options.softcap), scratch, where);
  };
  const executor_ref where = resolve(options.executor);
  const auto bytes = [&](const executor_ref& one) {
    return dilated_forward_bytes<A, S>(q.extent(3), out.extent(3), one);
  };
  for_each_class(check, d, options.scratch, bytes, where, solve);
}

/// A class of a backward call.
template <class S, class Mask>
softmax_gradient_segment<S, mask_of_class<Mask>> gradient_segment_of_class(
    const dilation& d, const residue_class& tokens, const view<const S, 4>& k, const view<const S, 4>& v,
    const view<S, 4>& dk, const view<S, 4>& dv, const mask_of_class<Mask>& mask) noexcept {
  const auto own = tokens.of(d.keys, d.kv_offset);
  return {segment_of_class(d, tokens, k, v, mask), rows_of_class(dk, own, d.step), rows_of_class(dv, own, d.step)};
}

/// What the largest class needs. Data is not looked at.
template <class A, class S>
index_t dilated_backward_bytes(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                               const dilation& d, double softcap, const executor_ref& where) {
  const auto of_extents = [](const view<const S, 4>& t) {
    return view<S, 4>(nullptr, {t.extent(0), t.extent(1), t.extent(2), t.extent(3)});
  };
  index_t most = 0;
  for (index_t number = 0; number < d.classes(); ++number) {
    const residue_class tokens = d.at(number);
    const softmax_gradient_rows<S> rows{
        rows_of_class(q, tokens.of(d.queries, d.q_offset), d.step), v, {}, {}, {}, {}, {}, {}, {}, {}, 1, {}};
    const auto all = mask_for(no_mask, tokens);
    const auto segment = gradient_segment_of_class(d, tokens, k, v, of_extents(k), of_extents(v), all);
    const auto each = [&](const auto& f) { f(segment); };
    most = std::max(most, softmax_backward_bytes<A>(rows, each, find_score_mods(softcap), where));
  }
  return most;
}

/// Keys that no query can see have no gradient.
template <class S>
void clear_idle_keys(const dilation& d, const view<S, 4>& dk, const view<S, 4>& dv) noexcept {
  for (index_t b = 0; b < dk.extent(0); ++b)
    for (index_t g = 0; g < dk.extent(1); ++g)
      for (index_t j = 0; j < d.keys; ++j) {
        if (!d.is_idle(j)) continue;
        std::fill_n(&dk(b, g, j, 0), dk.extent(3), S(0));
        std::fill_n(&dv(b, g, j, 0), dv.extent(3), S(0));
      }
}

/// dilated_backward for an instruction set of the caller's choice.
template <class A, class S, class Mask>
void dilated_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const S, 4> out,
                         view<const accumulator_t<S>, 3> lse, view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk,
                         view<S, 4> dv, const dilated_backward_options<S>& options, const Mask& mask) {
  const checker check("dilated_backward");
  check_backward_queries(check, q, out, lse, dout, dq, options.dlse, options.sink, options.scale, options.softcap);
  check_keys(check, q, k, v, out, "k", "v");
  check_key_gradients(check, k, v, dk, dv, "dk", "dv");
  check_positions(check, q.extent(2), k.extent(2), options.q_offset, options.kv_offset);
  check_dilation(check, options.step, options.reach);
  check_sink_gradient(check, q, options.sink, options.dsink);
  const auto inputs_apart = [&](const auto& output, const char* name, const auto&... outputs) {
    check_aliasing(check, output, name, q, k, v, out, lse, dout, options.sink, options.dlse, outputs...);
  };
  inputs_apart(dq, "dq");
  inputs_apart(dk, "dk", dq);
  inputs_apart(dv, "dv", dq, dk);
  inputs_apart(options.dsink, "options.dsink", dq, dk, dv);

  const dilation d = dilation_of(q, k, options);
  const executor_ref where = resolve(options.executor);
  const auto bytes = [&](const executor_ref& one) {
    return dilated_backward_bytes<A>(q, k, v, d, options.softcap, one);
  };
  softmax_gradient_rows<S> rows{q,
                                out,
                                lse,
                                dout,
                                options.dlse,
                                options.sink,
                                {},
                                dq,
                                options.dsink,
                                {},
                                options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
                                {}};
  const auto solve = [&](index_t number, scratch_view scratch, const executor_ref& one) {
    const residue_class tokens = d.at(number);
    const auto own = tokens.of(d.queries, d.q_offset);
    const softmax_gradient_rows<S> own_rows{rows_of_class(q, own, d.step),
                                            rows_of_class(out, own, d.step),
                                            rows_of_class(lse, own, d.step),
                                            rows_of_class(dout, own, d.step),
                                            rows_of_class(options.dlse, own, d.step),
                                            options.sink,
                                            {},
                                            rows_of_class(dq, own, d.step),
                                            {},
                                            {},
                                            rows.scale,
                                            {}};
    const auto visible = mask_for(mask, tokens);
    const auto segment = gradient_segment_of_class(d, tokens, k, v, dk, dv, visible);
    run_softmax_backward<A>(
        check, own_rows, [&](const auto& f) { f(segment); }, find_score_mods(options.softcap), scratch, one);
  };
  for_each_class(check, d, options.scratch, bytes, where, solve);
  clear_idle_keys(d, dk, dv);
  write_sink_gradients<A>(rows, where);
}

}  // namespace detail

/// Scratch, in bytes, that dilated_forward needs for tensors of these extents and these options: what `options.scratch`
/// must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t dilated_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                      const std::type_identity_t<view<const T, 4>>& k,
                                      const std::type_identity_t<view<const T, 4>>& v,
                                      const std::type_identity_t<dilated_options<T>>& options = {}) {
  return detail::bytes_of_classes(
      detail::dilation_of(q, k, options),
      [&](const executor_ref& one) { return detail::dilated_forward_bytes<A, T>(q.extent(3), v.extent(3), one); },
      detail::resolve(options.executor));
}

/// The same for dilated_backward.
template <element T, class A = default_arch>
index_t dilated_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                       const std::type_identity_t<view<const T, 4>>& k,
                                       const std::type_identity_t<view<const T, 4>>& v,
                                       const std::type_identity_t<dilated_backward_options<T>>& options = {}) {
  const detail::dilation d = detail::dilation_of(q, k, options);
  return detail::bytes_of_classes(
      d,
      [&](const executor_ref& one) { return detail::dilated_backward_bytes<A, T>(q, k, v, d, options.softcap, one); },
      detail::resolve(options.executor));
}

/// Attention to every r-th key around the query: out[b,h,i,:] = sum_j P_ij v[b,g(h),j,:]
///
/// P and z are those of softmax_forward; key j, at t = j + kv_offset, is visible to query i, at p = i + q_offset, if
///     t - p is a multiple of r = options.step, |p - t| <= options.reach, and the mask shows it.
/// The same as softmax_forward with the mask heed::dilated{reach, step}, which looks at all keys of the band.
///
/// q    [B,H,N,D]  queries
/// k    [B,G,M,D]  keys; H a multiple of G
/// v    [B,G,M,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// options         see dilated_options
/// mask            at most one, asked for positions as in softmax_forward: heed::causal{} for the causal form,
///                 heed::causal{} & heed::padding{begin, end}, a lambda
///
/// Queries and keys whose positions are equal modulo r are r problems that do not see each other: strided views, each
/// with a plain window of floor(reach / r) tokens on either side. Nothing is copied.
/// Legal edges: N = 0, M = 0, rows that see nothing (out = 0, lse = -inf), r beyond all distances (each query sees the
/// key at its own position).
/// Cost: O(N (2 floor(reach / r) + 1) (D + E)) per head, half of it if causal. Scratch O(D + E) a
/// worker (dilated_forward_scratch_bytes): options.scratch, or memory that the
/// thread keeps.
/// Deterministic: bit-equal for any executor and number of threads; with r = 1 bit-equal to softmax_forward with
/// window_left = window_right = reach.
/// Accuracy: as softmax_forward.
/// Throws heed::invalid_argument before any write: all that softmax_forward throws for, step outside 1 to 2^20, reach
/// below -1.
/// Paper: Beltagy, Peters, Cohan, Longformer: The Long-Document Transformer, 2020, section 3.1.
template <writable<4> Out, class Mask = detail::sees_all>
void dilated_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                     std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                     const std::type_identity_t<dilated_options<element_of_t<Out>>>& options = {},
                     const Mask& mask = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::dilated_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(mask_callable<Mask>, "heed::dilated_forward: a mask must be callable as mask(position) -> bool");
  if constexpr (element<S> && mask_callable<Mask>)
    detail::dilated_forward_on<default_arch, S>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out), options,
                                                mask);
}

/// Gradients of a loss by q, k and v, given those by out (and by lse): the formulas of softmax_backward over the pairs
/// that dilated_forward shows.
///
/// q, k, v             what dilated_forward was given
/// out      [B,H,N,E]  what it returned
/// lse      [B,H,N]    and in options.lse
/// dout     [B,H,N,E]  gradient by out
/// dq       [B,H,N,D]  gradient by q, an output as are dk and dv; none may overlap an input or another output
/// dk       [B,G,M,D]  gradient by k
/// dv       [B,G,M,E]  gradient by v. Element types are those of dq.
/// options             see dilated_backward_options
/// mask                that of the forward call
///
/// Legal edges: as dilated_forward. Keys that no query sees have gradient 0.
/// Cost: 5 / 2 of dilated_forward. Scratch as softmax_backward for the largest class
/// (dilated_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: as softmax_backward.
/// Throws heed::invalid_argument before any write: all that dilated_forward throws for, extents of out, lse, dout, dlse
/// and the gradients that do not fit, dsink without a sink.
template <writable<4> DQ, writable<4> DK, writable<4> DV, class Mask = detail::sees_all>
void dilated_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                      std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> lse,
                      std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                      const std::type_identity_t<dilated_backward_options<element_of_t<DQ>>>& options = {},
                      const Mask& mask = {}) {
  using S = element_of_t<DQ>;
  static_assert(element<S>, "heed::dilated_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  static_assert(mask_callable<Mask>, "heed::dilated_backward: a mask must be callable as mask(position) -> bool");
  if constexpr (element<S> && mask_callable<Mask>)
    detail::dilated_backward_on<default_arch, S>(q, k, v, out, lse, dout,
                                                 view_traits<std::remove_reference_t<DQ>>::make(dq),
                                                 view_traits<std::remove_reference_t<DK>>::make(dk),
                                                 view_traits<std::remove_reference_t<DV>>::make(dv), options, mask);
}

HEED_ARCH_END
