/// The learned maps in front of Luong's scores: W_a of general, W_1 and W_2 of mlp, and the positions that local-p
/// predicts.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/luong_options.hpp>
#include <heed/kernel/projection_run.hpp>
#include <heed/kernel/softmax_checks.hpp>

#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

template <class S>
HEED_COLD void check_projection(const checker& check, const view<const S, 3>& x, const char* x_name,
                                const view<const S, 2>& w, const char* w_name) {
  check.tensor(x, x_name);
  check.tensor(w, w_name);
  check.extent(w, w_name, 0, x.extent(2), text("as %s", x_name).c_str());
}

/// A vector beside the outputs of a map, contiguous.
template <class T, class S>
HEED_COLD void check_output_vector(const checker& check, const view<T, 1>& vector, const char* name,
                                   const view<const S, 2>& w, const char* w_name) {
  if constexpr (std::is_const_v<T>)
    check.tensor(vector, name);
  else
    check.output(vector, name);
  check.extent(vector, name, 0, w.extent(1), text("as %s", w_name).c_str());
}

template <class S>
HEED_COLD void check_projection_gradients(const checker& check, const view<const S, 3>& x, const view<const S, 2>& w,
                                          const view<S, 3>& dx, const char* dx_name, const view<S, 2>& dw,
                                          const char* dw_name) {
  check.output(dx, dx_name);
  check.output(dw, dw_name);
  for (int axis = 0; axis < 3; ++axis) check.extent(dx, dx_name, axis, x.extent(axis), "as what it belongs to");
  for (int axis = 0; axis < 2; ++axis) check.extent(dw, dw_name, axis, w.extent(axis), "as what it belongs to");
}

/// luong_projection_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void luong_projection_forward_on(view<const S, 3> x, view<const S, 2> w, view<S, 3> out,
                                 const luong_projection_options<S>& options) {
  using T = accumulator_t<S>;
  const checker check("luong_projection_forward");
  check_projection(check, x, "x", w, "w");
  check.output(out, "out");
  check.extent(out, "out", 0, x.extent(0), "B, as x");
  check.extent(out, "out", 1, x.extent(1), "N, as x");
  check.extent(out, "out", 2, w.extent(1), "O, as w");
  if (options.bias) check_output_vector(check, options.bias, "options.bias", w, "w");
  check_aliasing(check, out, "out", x, w, options.bias);
  if (is_empty(out)) return;
  projection_run<A, S>(x, w).forward(
      check, options.scratch, resolve(options.executor), [&](const projected_rows& rows, row_span<T> y) {
        const row_span<S> to{&out(rows.batch, rows.first, 0), out.stride(1)};
        store_each<T, A>(row_span<const T>(y), rows.count, w.extent(1), to, [&](index_t, index_t o, pack<T, A> sum) {
          return options.bias ? sum + load_within<T, A>(options.bias.data(), o, w.extent(1)) : sum;
        });
      });
}

/// luong_projection_backward for an instruction set of the caller's choice.
template <class A, class S>
void luong_projection_backward_on(view<const S, 3> x, view<const S, 2> w, view<const S, 3> dout, view<S, 3> dx,
                                  view<S, 2> dw, const luong_projection_backward_options<S>& options) {
  using T = accumulator_t<S>;
  const checker check("luong_projection_backward");
  check_projection(check, x, "x", w, "w");
  check.tensor(dout, "dout");
  check.extent(dout, "dout", 0, x.extent(0), "B, as x");
  check.extent(dout, "dout", 1, x.extent(1), "N, as x");
  check.extent(dout, "dout", 2, w.extent(1), "O, as w");
  check_projection_gradients(check, x, w, dx, "dx", dw, "dw");
  if (options.dbias) check_output_vector(check, options.dbias, "options.dbias", w, "w");
  check_aliasing(check, dx, "dx", x, w, dout);
  check_aliasing(check, dw, "dw", x, w, dout, dx);
  check_aliasing(check, options.dbias, "options.dbias", x, w, dout, dx, dw);
  projection_run<A, S>(x, w).backward(
      check, options.scratch, resolve(options.executor), dx, dw, options.dbias, false,
      [&](const projected_rows& rows, row_span<T>, row_span<T> dy, T* by_bias) {
        copy_rows<T, A>(row_span<const S>{&dout(rows.batch, rows.first, 0), dout.stride(1)}, 0, rows.count, w.extent(1),
                        dy);
        for (index_t i = 0; i < rows.count; ++i)
          for_vectors<T, A>(w.extent(1), [&](index_t o, int) {
            (pack<T, A>::load_aligned(by_bias + o) + pack<T, A>::load_aligned(dy[i] + o)).store_aligned(by_bias + o);
          });
      });
}

/// u = tanh(y) in place of y, and v . u, of one row.
template <class A, class T>
T bend_row(T* y, const T* v, index_t features) noexcept {
  pack<T, A> sum(T(0));
  for_vectors<T, A>(features, [&](index_t a, int) {
    const pack<T, A> u = tanh(pack<T, A>::load_aligned(y + a));
    u.store_aligned(y + a);
    sum = fma(u, load_within<T, A>(v, a, features), sum);
  });
  return reduce_add(sum);
}

template <class T>
T logistic(T x) noexcept {
  return T(1) / (T(1) + std::exp(-x));
}

template <class S>
HEED_COLD void check_position_inputs(const checker& check, const view<const S, 3>& h_t, const view<const S, 2>& w_p,
                                     const view<const accumulator_t<S>, 1>& v_p, index_t states,
                                     const sequence_lengths& lengths) {
  check_projection(check, h_t, "h_t", w_p, "w_p");
  check_output_vector(check, v_p, "v_p", w_p, "w_p");
  check.require(states >= 0, "states (S)", "at least 0", states);
  check_lengths(check, lengths, "options.lengths", h_t.extent(0), states);
}

template <class T, class S>
HEED_COLD void check_positions_tensor(const checker& check, const view<T, 2>& p, const char* name,
                                      const view<const S, 3>& h_t) {
  check.extent(p, name, 0, h_t.extent(0), "B, as h_t");
  check.extent(p, name, 1, h_t.extent(1), "N, as h_t");
  if constexpr (std::is_const_v<T>)
    check.require(p.data() != nullptr || is_empty(p), name, "data", "a null pointer");
  else
    check.require(distinct_elements(p), name, "an output whose elements are distinct",
                  "strides that make them overlap");
}

/// luong_positions_forward for an instruction set of the caller's choice.
template <class A, class S>
void luong_positions_forward_on(view<const S, 3> h_t, view<const S, 2> w_p, view<const accumulator_t<S>, 1> v_p,
                                index_t states, view<accumulator_t<S>, 2> p, const luong_positions_options& options) {
  using T = accumulator_t<S>;
  const checker check("luong_positions_forward");
  check_position_inputs(check, h_t, w_p, v_p, states, options.lengths);
  check_positions_tensor(check, p, "positions", h_t);
  check_aliasing(check, p, "positions", h_t, w_p, v_p);
  projection_run<A, S>(h_t, w_p).forward(
      check, options.scratch, resolve(options.executor), [&](const projected_rows& rows, row_span<T> y) {
        const T all = T(options.lengths ? options.lengths.at(rows.batch) : states);
        for (index_t i = 0; i < rows.count; ++i)
          p(rows.batch, rows.first + i) = all * logistic(bend_row<A>(y[i], v_p.data(), w_p.extent(1)));
      });
}

/// luong_positions_backward for an instruction set of the caller's choice.
template <class A, class S>
void luong_positions_backward_on(view<const S, 3> h_t, view<const S, 2> w_p, view<const accumulator_t<S>, 1> v_p,
                                 index_t states, view<const accumulator_t<S>, 2> dp, view<S, 3> dh_t, view<S, 2> dw_p,
                                 view<accumulator_t<S>, 1> dv_p, const luong_positions_options& options) {
  using T = accumulator_t<S>;
  using P = pack<T, A>;
  const checker check("luong_positions_backward");
  check_position_inputs(check, h_t, w_p, v_p, states, options.lengths);
  check_positions_tensor(check, dp, "dpositions", h_t);
  check_projection_gradients(check, h_t, w_p, dh_t, "dh_t", dw_p, "dw_p");
  check_output_vector(check, dv_p, "dv_p", w_p, "w_p");
  check_aliasing(check, dh_t, "dh_t", h_t, w_p, v_p, dp);
  check_aliasing(check, dw_p, "dw_p", h_t, w_p, v_p, dp, dh_t);
  check_aliasing(check, dv_p, "dv_p", h_t, w_p, v_p, dp, dh_t, dw_p);
  const index_t hidden = w_p.extent(1);
  projection_run<A, S>(h_t, w_p).backward(
      check, options.scratch, resolve(options.executor), dh_t, dw_p, dv_p, true,
      [&](const projected_rows& rows, row_span<T> y, row_span<T> dy, T* by_v) {
        const T all = T(options.lengths ? options.lengths.at(rows.batch) : states);
        for (index_t i = 0; i < rows.count; ++i) {
          const T share = logistic(bend_row<A>(y[i], v_p.data(), hidden));
          const P slope(dp(rows.batch, rows.first + i) * all * share * (1 - share));
          for_vectors<T, A>(hidden, [&](index_t a, int) {
            const P u = P::load_aligned(y[i] + a);
            (slope * load_within<T, A>(v_p.data(), a, hidden) * (P(T(1)) - u * u)).store_aligned(dy[i] + a);
            fma(slope, u, P::load_aligned(by_v + a)).store_aligned(by_v + a);
          });
        }
      });
}

}  // namespace detail

/// Scratch, in bytes, that luong_projection_forward and luong_positions_forward need for tensors of these extents: what
/// `options.scratch` must hold. Data is not looked at.
template <element T, class A = default_arch>
index_t luong_projection_forward_scratch_bytes(const std::type_identity_t<view<const T, 3>>& x,
                                               const std::type_identity_t<view<const T, 2>>& w,
                                               const executor_ref& executor = {}) {
  return detail::projection_run<A, T>(x, w).forward_bytes(detail::resolve(executor));
}

/// The same for luong_projection_backward and luong_positions_backward.
template <element T, class A = default_arch>
index_t luong_projection_backward_scratch_bytes(const std::type_identity_t<view<const T, 3>>& x,
                                                const std::type_identity_t<view<const T, 2>>& w,
                                                const executor_ref& executor = {}) {
  return detail::projection_run<A, T>(x, w).backward_bytes(detail::resolve(executor));
}

/// What a learned matrix makes of states: out[b,i,:] = x[b,i,:] W + bias
///
/// Score general is luong_dot_forward of h_t W_a. Score mlp takes h_t W_1 + b and h_s W_2.
///
/// x    [B,N,I]  target steps or source states
/// w    [I,O]    the paper's W_a; its W_1 and W_2, transposed
/// out  [B,N,O]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that of x
///               and w. Any outer strides; the last axis contiguous.
/// options       see luong_projection_options
///
/// Legal edges: any extent 0.
/// Cost: O(B N I O). Scratch: a copy of W if it is not of whole vectors of the accumulator's type, and 64 rows a worker
/// (luong_projection_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: accumulates in float (double for double); error below u (I + 1) sum |x w|, plus the rounding of out.
/// Throws heed::invalid_argument before any write: extents that do not fit each other, a strided last axis, null data,
/// overlap of out, scratch too small.
/// Paper: Luong, Pham, Manning, Effective Approaches to Attention-based Neural Machine Translation, 2015, eq. 8.
template <writable<3> Out>
void luong_projection_forward(std::type_identity_t<view<const element_of_t<Out>, 3>> x,
                              std::type_identity_t<view<const element_of_t<Out>, 2>> w, Out&& out,
                              const std::type_identity_t<luong_projection_options<element_of_t<Out>>>& options = {}) {
  using S = element_of_t<Out>;
  static_assert(element<S>,
                "heed::luong_projection_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_projection_forward_on<default_arch, S>(x, w, view_traits<std::remove_reference_t<Out>>::make(out),
                                                         options);
}

/// Gradients of luong_projection_forward:   dx = dout W^T    dW = sum over b, i of x^T dout    dbias = sum of dout
///
/// x, w          what luong_projection_forward was given
/// dout [B,N,O]  gradient by out
/// dx   [B,N,I]  outputs, overwritten; none may overlap an input or another output
/// dw   [I,O]
/// options       see luong_projection_backward_options
///
/// Cost: two products of the size of forward's. Scratch O(I O) for each of up to 16 parts of the rows
/// (luong_projection_backward_scratch_bytes). Everything else as in luong_projection_forward.
template <writable<3> DX, writable<2> DW>
void luong_projection_backward(
    std::type_identity_t<view<const element_of_t<DX>, 3>> x, std::type_identity_t<view<const element_of_t<DX>, 2>> w,
    std::type_identity_t<view<const element_of_t<DX>, 3>> dout, DX&& dx, DW&& dw,
    const std::type_identity_t<luong_projection_backward_options<element_of_t<DX>>>& options = {}) {
  using S = element_of_t<DX>;
  static_assert(element<S>,
                "heed::luong_projection_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_projection_backward_on<default_arch, S>(x, w, dout,
                                                          view_traits<std::remove_reference_t<DX>>::make(dx),
                                                          view_traits<std::remove_reference_t<DW>>::make(dw), options);
}

/// Where local-p looks: p[b,t] = S_b sigmoid(v_p . tanh(h_t[b,t,:] W_p)), S_b = options.lengths[b] or S
///
/// h_t        [B,N,I]  target steps
/// w_p        [I,A]    the paper's W_p, transposed
/// v_p        [A]      contiguous, in the accumulator's type (float; double for double)
/// states              S, at least 0
/// positions  [B,N]    output of any strides, in the accumulator's type: source positions from 0, in (0, S_b) but for
///                     rounding. For luong_local_forward.
/// options             see luong_positions_options
///
/// Cost: O(B N I A). Everything else as in luong_projection_forward.
/// Accuracy: of the exponent that of luong_projection_forward; the position follows it with slope S_b / 4 at most.
/// Paper: Luong, Pham, Manning, 2015, eq. 9.
template <readable<3> H>
void luong_positions_forward(const H& h_t, std::type_identity_t<view<const value_of_t<H>, 2>> w_p,
                             std::type_identity_t<view<const accumulator_t<value_of_t<H>>, 1>> v_p, index_t states,
                             std::type_identity_t<view<accumulator_t<value_of_t<H>>, 2>> positions,
                             const luong_positions_options& options = {}) {
  using S = value_of_t<H>;
  static_assert(element<S>,
                "heed::luong_positions_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_positions_forward_on<default_arch, S>(view_traits<const H>::make(h_t), w_p, v_p, states, positions,
                                                        options);
}

/// Gradients of luong_positions_forward by h_t, W_p and v_p, given those by the positions, such as luong_local_backward
/// leaves them. dp goes through the sigmoid (S_b s (1 - s)) and tanh (1 - u^2).
///
/// h_t, w_p, v_p, states   what luong_positions_forward was given
/// dpositions  [B,N]       gradient by the positions
/// dh_t        [B,N,I]     outputs, overwritten; none may overlap an input or another output
/// dw_p        [I,A]
/// dv_p        [A]         contiguous, in the accumulator's type
/// options                 see luong_positions_options
///
/// Everything else as in luong_projection_backward.
template <writable<3> DH, writable<2> DW>
void luong_positions_backward(std::type_identity_t<view<const element_of_t<DH>, 3>> h_t,
                              std::type_identity_t<view<const element_of_t<DH>, 2>> w_p,
                              std::type_identity_t<view<const accumulator_t<element_of_t<DH>>, 1>> v_p, index_t states,
                              std::type_identity_t<view<const accumulator_t<element_of_t<DH>>, 2>> dpositions,
                              DH&& dh_t, DW&& dw_p, std::type_identity_t<view<accumulator_t<element_of_t<DH>>, 1>> dv_p,
                              const luong_positions_options& options = {}) {
  using S = element_of_t<DH>;
  static_assert(element<S>,
                "heed::luong_positions_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>)
    detail::luong_positions_backward_on<default_arch, S>(
        h_t, w_p, v_p, states, dpositions, view_traits<std::remove_reference_t<DH>>::make(dh_t),
        view_traits<std::remove_reference_t<DW>>::make(dw_p), dv_p, options);
}

HEED_ARCH_END
