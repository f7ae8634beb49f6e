/// Gated Slot Attention: a bounded memory of slots that fade, read with softmax.
#pragma once

#include <heed/kernel/slot_checks.hpp>
#include <heed/kernel/slot_chunks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
slot_call<S> gated_slot_call(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                             const view<const accumulator_t<S>, 4>& s, const view<const accumulator_t<S>, 4>& g,
                             const view<S, 4>& out, const gated_slot_options<S>& options) noexcept {
  return {q,
          k,
          v,
          s,
          g,
          out,
          options.scores,
          options.initial_keys,
          options.initial_values,
          options.final_keys,
          options.final_values,
          options.cu_seqlens,
          options.scale.or_default(1 / std::sqrt(double(q.extent(3)))),
          options.chunk};
}

/// gated_slot_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void gated_slot_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                           view<const accumulator_t<S>, 4> s, view<const accumulator_t<S>, 4> g, view<S, 4> out,
                           const gated_slot_options<S>& options) {
  static_assert(element<S>, "heed::gated_slot_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_slot_forward");
    check_recurrence(check, q, k, v, out, options.scale, options.chunk);
    check_slot_writes(check, q, k, s, g);
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const slot_call<S> call = gated_slot_call(q, k, v, s, g, out, options);
    const index_t sequences = call.streams().sequences, slots = s.extent(3);
    check_slots(check, options.initial_keys, "options.initial_keys", options.initial_values, "options.initial_values",
                sequences, k, v, slots);
    check_slots(check, options.final_keys, "options.final_keys", options.final_values, "options.final_values",
                sequences, k, v, slots);
    if (options.scores) check_slot_scores(check, q, options.scores, "options.scores", slots);
    check_aliasing(check, out, "out", q, k, v, s, g, options.initial_keys, options.initial_values);
    check_aliasing(check, options.scores, "options.scores", q, k, v, s, g, out, options.initial_keys,
                   options.initial_values);
    check_aliasing(check, options.final_keys, "options.final_keys", q, k, v, s, g, out, options.scores,
                   options.initial_values);
    check_aliasing(check, options.final_values, "options.final_values", q, k, v, s, g, out, options.scores,
                   options.initial_keys, options.final_keys);

    const slot_forward_chunks<A, S> chunks(call);
    recurrence_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

}  // namespace detail

/// Scratch, in bytes, that gated_slot_forward needs for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t gated_slot_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                         const std::type_identity_t<view<const T, 4>>& k,
                                         const std::type_identity_t<view<const T, 4>>& v, index_t slots,
                                         const std::type_identity_t<gated_slot_options<T>>& options = {}) {
  const view<const accumulator_t<T>, 4> s(nullptr, {k.extent(0), k.extent(1), k.extent(2), slots});
  const auto call = detail::gated_slot_call<T>(q, k, v, s, s, {}, options);
  const detail::slot_forward_chunks<A, T> chunks(call);
  return detail::recurrence_run(chunks, detail::resolve(options.executor)).bytes();
}

template <writable<4> Out>
void gated_slot_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                        std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                        std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                        std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> s,
                        std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                        const std::type_identity_t<gated_slot_options<element_of_t<Out>>>& options = {}) {
  detail::gated_slot_forward_on<default_arch, element_of_t<Out>>(
      q, k, v, s, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
