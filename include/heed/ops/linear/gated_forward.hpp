/// Gated linear attention: a matrix state that fades by data-dependent gates.
#pragma once

#include <heed/kernel/gated_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// gated_linear_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, gate_kind Kind, class S>
void gated_linear_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                             gate_view<Kind, const accumulator_t<S>> g, view<S, 4> out,
                             const recurrence_options<S>& options) {
  static_assert(element<S>,
                "heed::gated_linear_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("gated_linear_forward");
    check_recurrence(check, q, k, v, out, options.scale, options.chunk);
    check_gates<Kind>(check, g, k);
    check_packed_tokens(check, q, k, options.cu_seqlens);
    const index_t offset = checked_offset(check, q, k, options.q_offset, options.cu_seqlens, options.reverse);
    const linear_call<S> call = gated_call<Kind>(q, k, v, g, out, options, offset);
    const index_t sequences = call.streams().sequences, heads = call.streams().states;
    check_state(check, options.initial_state, "options.initial_state", sequences, heads, k.extent(3), v.extent(3));
    check_state(check, options.final_state, "options.final_state", sequences, heads, k.extent(3), v.extent(3));
    check_aliasing(check, out, "out", q, k, v, g, options.initial_state);
    check_aliasing(check, options.final_state, "options.final_state", q, k, v, g, out);

    const linear_forward_chunks<A, S, Kind> chunks(call);
    recurrence_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

template <class A, gate_kind Kind, class S>
index_t gated_linear_forward_bytes(const view<const S, 4>& q, const view<const S, 4>& k, const view<const S, 4>& v,
                                   const recurrence_options<S>& options) noexcept {
  const linear_call<S> call = gated_call<Kind, S>(q, k, v, {}, {}, options, 0);
  const linear_forward_chunks<A, S, Kind> chunks(call);
  return recurrence_run(chunks, resolve(options.executor)).bytes();
}

}  // namespace detail

template <writable<4> Out>
void gated_linear_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                          std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 4>> g, Out&& out,
                          const std::type_identity_t<recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::gated_linear_forward_on<default_arch, detail::gate_kind::feature, element_of_t<Out>>(
      q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

/// The same with one gate a token, g [B,G,M].
template <writable<4> Out>
void gated_linear_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                          std::type_identity_t<view<const element_of_t<Out>, 4>> v,
                          std::type_identity_t<view<const accumulator_t<element_of_t<Out>>, 3>> g, Out&& out,
                          const std::type_identity_t<recurrence_options<element_of_t<Out>>>& options = {}) {
  detail::gated_linear_forward_on<default_arch, detail::gate_kind::token, element_of_t<Out>>(
      q, k, v, g, view_traits<std::remove_reference_t<Out>>::make(out), options);
}

HEED_ARCH_END
