/// Linear attention with feature maps, step by step.
#pragma once

#include <heed/kernel/feature_steps.hpp>
#include <heed/kernel/linear_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
feature_call<S> linear_step_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                 const view<S, 4>& out, const linear_step_options<S>& options) noexcept {
  linear_options<S> forward{};
  forward.map = options.map;
  forward.normalise = options.normalise;
  forward.scale = options.scale;
  forward.eps = options.eps;
  return linear_feature_call(q, k, v, out, forward, 0);
}

/// linear_step for an instruction set of the caller's choice.
template <class A, class S>
void linear_step_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                    view<accumulator_t<S>, 4> state, view<accumulator_t<S>, 3> sum,
                    const linear_step_options<S>& options) {
  static_assert(element<S>, "heed::linear_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("linear_step");
    check_recurrence(check, q, k, v, out, options.scale, 1);
    check.extent(k, "k", 2, q.extent(2), "N, as q");
    check_features(check, options.map, options.normalise, options.scale, options.eps);
    check_given_state(check, state, "state", q.extent(0), k.extent(1), k.extent(3), v.extent(3));
    check_sum(check, sum, "sum", q.extent(0), k, options.normalise);
    check.require(!options.normalise || sum.data() != nullptr || is_empty(state), "sum", "data", "a null pointer");
    check_apart(check, memory_of(q, k, v), out, "out", state, "state", sum, "sum");

    const feature_call<S> call = linear_step_call(q, k, v, out, options);
    const feature_steps<A, S> steps(call, state, sum);
    recurrence_step_run(steps, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that linear_step needs for tensors of these extents and these options.
template <element T, class A = default_arch>
index_t linear_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                  const std::type_identity_t<view<const T, 4>>& k,
                                  const std::type_identity_t<view<const T, 4>>& v,
                                  const std::type_identity_t<linear_step_options<T>>& options = {}) {
  const auto call = detail::linear_step_call<T>(q, k, v, {}, options);
  const detail::feature_steps<A, T> steps(call, {}, {});
  return detail::recurrence_step_run(steps, detail::resolve(options.executor)).bytes();
}

/// Takes the newest tokens into the sums of a causal linear_forward and reads them:
///     state += map(k_t) v_t^T     sum += map(k_t)
///     out_t = scale state^T map(q_t) / (scale sum . map(q_t) + eps)     for t = 0 .. N - 1
/// without the divisor unless normalised.
///
/// q     [B,H,N,D]  queries, N of each sequence: one, or a few; linear_forward is faster from about 8 on
/// k     [B,G,N,D]  keys; H a multiple of G
/// v     [B,G,N,E]  values
/// out   [B,H,N,E]  output; must not overlap an input. Its element type is that of q, k and v
/// state [B,G,D,E]  updated in place, float (double for double); last axis contiguous
/// sum   [B,G,D]    updated in place, of the same type and any strides; `{}` unless normalised
/// options          see linear_step_options; the defaults are those of linear_forward
///
/// Legal edges: N = 0.
/// Cost: reads and writes the state once a token, for all heads that share it: 2 D E multiply-adds, and D E for each
/// further head. Scratch O(H / G (D + E)) a worker; allocates nothing once the thread keeps enough, or with
/// options.scratch (linear_step_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |out|) for inputs of unit variance. The
/// state holds the sums themselves, so keys of an exp map should stay below 80 or so.
/// Throws heed::invalid_argument before any write: as linear_forward; no state, or no sum of a normalised call.
/// Paper: Katharopoulos, Vyas, Pappas, Fleuret, Transformers are RNNs: Fast Autoregressive Transformers with Linear
/// Attention, 2020, equations 16 to 20.
template <writable<4> Out, writable<4> State>
void linear_step(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                 std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                 std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out, State&& state,
                 std::type_identity_t<view<accumulator_t<element_of_t<Out>>, 3>> sum,
                 const std::type_identity_t<linear_step_options<element_of_t<Out>>>& options = {}) {
  detail::linear_step_on<default_arch, element_of_t<Out>>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out),
                                                          view_traits<std::remove_reference_t<State>>::make(state), sum,
                                                          options);
}

HEED_ARCH_END
