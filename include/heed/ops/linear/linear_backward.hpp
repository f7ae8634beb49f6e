/// Gradients of linear attention with feature maps.
#pragma once

#include <heed/kernel/feature_gradient.hpp>
#include <heed/kernel/linear_checks.hpp>
#include <heed/kernel/pooled_backward_run.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
feature_gradient_call<S> linear_feature_gradient_call(const view<const S, 4>& q, const view<const S, 4>& k,
                                                      const view<const S, 4>& v,
                                                      const linear_backward_options<S>& options,
                                                      index_t offset) noexcept {
  linear_options<S> forward{};
  forward.map = options.map;
  forward.normalise = options.normalise;
  forward.scale = options.scale;
  forward.chunk = options.chunk;
  forward.initial_state = options.initial_state;
  forward.initial_sum = options.initial_sum;
  forward.cu_seqlens = options.cu_seqlens;
  feature_gradient_call<S> call{};
  call.forward = linear_feature_call(q, k, v, {}, forward, offset);
  return call;
}

/// linear_backward for an instruction set of the caller's choice.
template <class A, class S>
void linear_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<const S, 4> out,
                        view<const accumulator_t<S>, 3> denominator, view<const S, 4> dout, view<S, 4> dq,
                        view<S, 4> dk, view<S, 4> dv, const linear_backward_options<S>& options) {
  static_assert(element<S>, "heed::linear_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("linear_backward");
    check_recurrence_gradients(check, q, k, v, dout, dq, dk, dv, options.scale, options.chunk, options.cu_seqlens,
                               true);
    check_features(check, options.map, options.normalise, options.scale, 0);
    const index_t offset = checked_causal_offset(check, options.causal, q, k, options.q_offset, options.cu_seqlens);
    if (options.normalise) {
      check.tensor(out, "out");
      for (int axis = 0; axis < 4; ++axis) check.extent(out, "out", axis, dout.extent(axis), "as dout");
      check_row_numbers(check, q, denominator, "denominator");
    }
    feature_gradient_call<S> call = linear_feature_gradient_call(q, k, v, options, offset);
    check_initial_sums(check, options.initial_state, options.initial_sum, call.forward.streams().sequences, k, v,
                       options.normalise);
    check_apart(check, memory_of(q, k, v, out, denominator, dout, options.initial_state, options.initial_sum), dq, "dq",
                dk, "dk", dv, "dv");
    call.out = out;
    call.denominator = denominator;
    call.dout = dout;
    call.dq = dq;
    call.dk = dk;
    call.dv = dv;

    const executor_ref where = resolve(options.executor);
    if (options.causal && offset < 0) {
      const index_t before = std::min(-offset, q.extent(2));
      feature_gradient_call<S> alone = gradient_of_queries(call, 0, before);
      alone.forward = without_keys(alone.forward);
      with_linear_gradients<A>(
          alone, [&](const auto& chunks) { pooled_backward_run(chunks, where).run(check, options.scratch); });
      call = gradient_of_queries(call, before, q.extent(2));
    }
    with_linear_gradients<A>(call, [&](const auto& chunks) {
      if (options.causal)
        recurrence_backward_run(chunks, where).run(check, options.scratch);
      else
        pooled_backward_run(chunks, where).run(check, options.scratch);
    });
  }
}

}  // namespace detail

/// Scratch, in bytes, that linear_backward needs for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t linear_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                      const std::type_identity_t<view<const T, 4>>& k,
                                      const std::type_identity_t<view<const T, 4>>& v,
                                      const std::type_identity_t<linear_backward_options<T>>& options = {}) {
  const auto call = detail::linear_feature_gradient_call<T>(q, k, v, options, 0);
  const executor_ref where = detail::resolve(options.executor);
  index_t bytes = 0;
  detail::with_linear_gradients<A>(call, [&](const auto& chunks) {
    bytes = options.causal ? detail::recurrence_backward_run(chunks, where).bytes()
                           : detail::pooled_backward_run(chunks, where).bytes();
  });
  return bytes;
}

/// Gradients of linear_forward by its inputs, from dout, the gradient of the loss by out.
///
/// q, k, v        as linear_forward had them
/// out            [B,H,N,E]  its output, and
/// denominator    [B,H,N]    the one that it was asked for; neither is looked at unless normalised
/// dout           [B,H,N,E]  gradient by out
/// dq, dk, dv     outputs, of the extents of q, k and v; gradients by keys and values are summed over the query heads
///                that share them. They must not overlap an input or each other.
/// options        see linear_backward_options. The initial sums are constants here; final ones are no part of the loss.
///
/// Legal edges: N = 0; M = 0; queries that see nothing (dq = 0).
/// Cost: about 3 times linear_forward. States of chunks are recomputed, 64 chunks at a time, from those that are kept.
/// Scratch O(chunk (D + E + chunk) + (64 + N / (64 chunk)) D E) a worker if causal, else O(chunk (D + E + chunk) + D E)
/// (linear_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double): |error| <= 1e-4 (1 + max |gradient|) for inputs of unit
/// variance. A normalised call takes out as it is stored: in 16-bit types its rounding error times dout / denominator
/// is in the gradients by q and k.
/// Throws heed::invalid_argument before any write: as linear_forward; no out or denominator of a normalised call.
/// Paper: Katharopoulos, Vyas, Pappas, Fleuret, Transformers are RNNs: Fast Autoregressive Transformers with Linear
/// Attention, 2020, section 3.3.1 and algorithm 1.
template <writable<4> DQ, writable<4> DK, writable<4> DV>
void linear_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                     std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                     std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                     std::type_identity_t<view<const element_of_t<DQ>, 4>> out,
                     std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> denominator,
                     std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                     const std::type_identity_t<linear_backward_options<element_of_t<DQ>>>& options = {}) {
  detail::linear_backward_on<default_arch, element_of_t<DQ>>(
      q, k, v, out, denominator, dout, view_traits<std::remove_reference_t<DQ>>::make(dq),
      view_traits<std::remove_reference_t<DK>>::make(dk), view_traits<std::remove_reference_t<DV>>::make(dv), options);
}

HEED_ARCH_END
