/// Efficient attention: dot-product attention whose keys and values are multiplied first.
#pragma once

#include <heed/core/efficient_options.hpp>
#include <heed/core/error.hpp>
#include <heed/kernel/efficient_backward_run.hpp>
#include <heed/kernel/efficient_forward_run.hpp>
#include <heed/kernel/softmax_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
HEED_COLD void check_efficient(const checker& check, const view<const S, 4>& q, const view<const S, 4>& k,
                               efficient_mode mode, const sequence_lengths& lengths) {
  check.require(mode == efficient_mode::softmax || mode == efficient_mode::scaling, "options.mode",
                "softmax or scaling", static_cast<int>(mode));
  check.require(mode == efficient_mode::softmax || k.extent(2) > 0, "k.extent(2) (M)", "at least 1 in mode scaling",
                k.extent(2));
  check_lengths(check, lengths, "options.kv_lengths", q.extent(0), k.extent(2));
}

/// A number for every feature of every kv head, [B,G,D] of any strides.
template <class T, class S>
HEED_COLD void check_key_numbers(const checker& check, const view<T, 3>& numbers, const char* name,
                                 const view<const S, 4>& k) {
  check.extent(numbers, name, 0, k.extent(0), "B, as k");
  check.extent(numbers, name, 1, k.extent(1), "G, as k");
  check.extent(numbers, name, 2, k.extent(3), "D, as k");
  if constexpr (std::is_const_v<T>)
    check.require(numbers.data() != nullptr || is_empty(numbers), name, "data", "a null pointer");
  else
    check_scattered_output(check, numbers, name);
}

/// An output of mode softmax, if there is one.
template <class T, class S>
HEED_COLD void check_key_output(const checker& check, const view<T, 3>& output, const char* name, efficient_mode mode,
                                const view<const S, 4>& k) {
  if (!output) return;
  check.require(mode == efficient_mode::softmax, name, "none in mode scaling", "an output");
  check_key_numbers(check, output, name, k);
}

/// efficient_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void efficient_forward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v, view<S, 4> out,
                          const efficient_options<S>& options) {
  const checker check("efficient_forward");
  check_queries(check, q, out, {}, {}, {}, 0);
  check_keys(check, q, k, v, out, "k", "v");
  check_efficient(check, q, k, options.mode, options.kv_lengths);
  check_key_output(check, options.key_max, "options.key_max", options.mode, k);
  check_key_output(check, options.key_sum, "options.key_sum", options.mode, k);
  check_aliasing(check, out, "out", q, k, v);
  check_aliasing(check, options.key_max, "options.key_max", q, k, v, out);
  check_aliasing(check, options.key_sum, "options.key_sum", q, k, v, out, options.key_max);

  const efficient_call<S> call{q, k, v, options.mode, options.kv_lengths};
  efficient_forward_run<A, S>(call).run(check, out, options.key_max, options.key_sum, options.scratch,
                                        resolve(options.executor));
}

/// efficient_backward for an instruction set of the caller's choice.
template <class A, class S>
void efficient_backward_on(view<const S, 4> q, view<const S, 4> k, view<const S, 4> v,
                           view<const accumulator_t<S>, 3> key_max, view<const accumulator_t<S>, 3> key_sum,
                           view<const S, 4> dout, view<S, 4> dq, view<S, 4> dk, view<S, 4> dv,
                           const efficient_backward_options<S>& options) {
  const checker check("efficient_backward");
  check.tensor(q, "q");
  check.tensor(dout, "dout");
  check.output(dq, "dq");
  check.require(q.extent(3) > 0, "q.extent(3) (D)", "at least 1", q.extent(3));
  check.require(dout.extent(3) > 0, "dout.extent(3) (E)", "at least 1", dout.extent(3));
  check_value_rows(check, q, dout, "dout");
  check_value_rows(check, q, dq, "dq");
  check.extent(dq, "dq", 3, q.extent(3), "D, as q");
  check_keys(check, q, k, v, dout, "k", "v");
  check_key_gradients(check, k, v, dk, dv, "dk", "dv");
  check_efficient(check, q, k, options.mode, options.kv_lengths);
  if (options.mode == efficient_mode::softmax) {
    check_key_numbers(check, key_max, "key_max", k);
    check_key_numbers(check, key_sum, "key_sum", k);
  }
  const auto inputs_apart = [&](const auto& output, const char* name, const auto&... outputs) {
    check_aliasing(check, output, name, q, k, v, key_max, key_sum, dout, outputs...);
  };
  inputs_apart(dq, "dq");
  inputs_apart(dk, "dk", dq);
  inputs_apart(dv, "dv", dq, dk);

  const efficient_call<S> call{q, k, v, options.mode, options.kv_lengths};
  const efficient_gradients<S> gradients{key_max, key_sum, dout, dq, dk, dv};
  efficient_backward_run<A, S>(call, gradients).run(check, options.scratch, resolve(options.executor));
}

}  // namespace detail

/// Scratch, in bytes, that efficient_forward needs for tensors of these extents and these options: what
/// `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t efficient_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                        const std::type_identity_t<view<const T, 4>>& k,
                                        const std::type_identity_t<view<const T, 4>>& v,
                                        const std::type_identity_t<efficient_options<T>>& options = {}) {
  const detail::efficient_call<T> call{q, k, v, options.mode, options.kv_lengths};
  return detail::efficient_forward_run<A, T>(call).bytes(detail::resolve(options.executor));
}

/// Scratch, in bytes, that efficient_backward needs for tensors of these extents and these options. Data is not looked
/// at.
template <element T, class A = default_arch>
index_t efficient_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& q,
                                         const std::type_identity_t<view<const T, 4>>& k,
                                         const std::type_identity_t<view<const T, 4>>& v,
                                         const std::type_identity_t<efficient_backward_options<T>>& options = {}) {
  const detail::efficient_call<T> call{q, k, v, options.mode, options.kv_lengths};
  const detail::efficient_gradients<T> none{};
  return detail::efficient_backward_run<A, T>(call, none).bytes(detail::resolve(options.executor));
}

/// Efficient attention: out[b,h,i,:] = sum_d rho_q(q_i)_d sum_j rho_k(k_j)_d v[b,g(h),j,:]
///
/// over the first kv_lengths[b] keys, M' of them, g(h) = h / (H / G), with
///     mode softmax   rho_q(q_i)_d = e^q_id / sum_c e^q_ic          rho_k(k_j)_d = e^k_jd / sum_l e^k_ld
///     mode scaling   rho_q(q_i) = q_i M'^-1/2                      rho_k(k_j) = k_j M'^-1/2
///
/// q    [B,H,N,D]  queries
/// k    [B,G,M,D]  keys; H a multiple of G
/// v    [B,G,M,E]  values
/// out  [B,H,N,E]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of
///                 all four tensors. Any outer strides; the last axis contiguous.
/// options         see efficient_options
///
/// No D^-1/2: scale q and k where it is wanted. There is no causal form: the softmax over positions sees them all.
///
/// Legal edges: N = 0; M = 0 in mode softmax, kv_lengths[b] = 0 (out = 0). A feature that is -inf in all keys counts as
/// one without keys: it adds nothing. Keys and values past kv_lengths[b] are not read.
/// Cost: O((N + M) D E) per head, of which the keys' part is shared by the heads that share them; no N x M. Scratch
/// O(D + E) a worker and D (E + 2) numbers a kv head, or for each of up to 32 parts of the keys where B G is small
/// (efficient_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double) over blocks of 64 keys, then over blocks. With A the most that a
/// feature lies below the maximum it is compared with (0 in mode scaling), the error of out is below
/// 2 u (8 + A + sqrt(D) + sqrt(64 + M / 64)) sum_d |rho_q|_d sum_j |rho_k|_jd |v_j|, u = 2^-24 (2^-53 for double), plus
/// the rounding of out to its type.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, D or E zero, M = 0 in mode
/// scaling, a strided last axis, null data, overlap of an output, bad kv_lengths, key_max or key_sum in mode scaling,
/// scratch too small.
/// Paper: Shen, Zhang, Zhao, Yi, Li, Efficient Attention: Attention with Linear Complexities, 2021, eq. 3 and 4.
template <writable<4> Out>
void efficient_forward(std::type_identity_t<view<const element_of_t<Out>, 4>> q,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> k,
                       std::type_identity_t<view<const element_of_t<Out>, 4>> v, Out&& out,
                       const std::type_identity_t<efficient_options<element_of_t<Out>>>& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>, "heed::efficient_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::efficient_forward_on<default_arch, S>(q, k, v, view_traits<std::remove_reference_t<Out>>::make(out),
                                                  options);
}

/// Gradients of a loss by q, k and v, given that by out. With ctx = rho_k^T v, and dctx = rho_q^T dout summed over the
/// heads that share it:
///     drho_q = dout ctx^T    dq_id = rho_qid (drho_qid - sum_c rho_qic drho_qic)
///     drho_k = v dctx^T      dk_jd = rho_kjd (drho_kjd - sum_l rho_kld drho_kld)      dv = rho_k dctx
///
/// q, k, v             what efficient_forward was given
/// key_max  [B,G,D]    what it returned in options.key_max
/// key_sum  [B,G,D]    and in options.key_sum; neither is looked at in mode scaling
/// dout     [B,H,N,E]  gradient by out
/// dq       [B,H,N,D]  gradient by q, an output as are dk and dv; none may overlap an input or another output
/// dk       [B,G,M,D]  gradient by k
/// dv       [B,G,M,E]  gradient by v. Element types are those of dq.
/// options             see efficient_backward_options
///
/// Legal edges: as efficient_forward. Keys past kv_lengths[b] have gradient 0, whatever they hold.
/// Cost: 5 / 2 of efficient_forward: five products of D E multiply-adds a query or key. Scratch O(D + E) a worker and
/// up to 34 D (E + 1) times two numbers a kv head (efficient_backward_scratch_bytes): options.scratch, or memory that
/// the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates as efficient_forward does.
/// Throws heed::invalid_argument before any write: all that efficient_forward throws for, key_max, key_sum or gradients
/// whose extents do not fit.
/// Paper: Shen et al., Efficient Attention, 2021.
template <writable<4> DQ, writable<4> DK, writable<4> DV>
void efficient_backward(std::type_identity_t<view<const element_of_t<DQ>, 4>> q,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> k,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> v,
                        std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> key_max,
                        std::type_identity_t<view<const accumulator_t<element_of_t<DQ>>, 3>> key_sum,
                        std::type_identity_t<view<const element_of_t<DQ>, 4>> dout, DQ&& dq, DK&& dk, DV&& dv,
                        const std::type_identity_t<efficient_backward_options<element_of_t<DQ>>>& options = {}) {
  using S = element_of_t<DQ>;
  static_assert(element<S>, "heed::efficient_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::efficient_backward_on<default_arch, S>(q, k, v, key_max, key_sum, dout,
                                                   view_traits<std::remove_reference_t<DQ>>::make(dq),
                                                   view_traits<std::remove_reference_t<DK>>::make(dk),
                                                   view_traits<std::remove_reference_t<DV>>::make(dv), options);
}

HEED_ARCH_END
