/// State space duality: the layer of Mamba-2 as linear attention with gates.
#pragma once

#include <heed/kernel/gated_gradient_checks.hpp>
#include <heed/kernel/recurrence_run.hpp>
#include <heed/kernel/recurrence_step_run.hpp>
#include <heed/kernel/ssd_rows.hpp>

HEED_ARCH_BEGIN
namespace detail {

template <class A, class S>
using ssd_forward_chunks = linear_forward_chunks<A, S, gate_kind::token, ssd_rows<A, S>>;
template <class A, class S>
using ssd_backward_chunks = linear_backward_chunks<A, S, gate_kind::token, ssd_gradient_rows<A, S>>;

/// What a call is given, once.
template <class S>
struct ssd_inputs {
  using T = accumulator_t<S>;
  view<const S, 4> x;
  view<const T, 3> dt;
  view<const T, 1> a;
  view<const S, 4> b, c;
  view<const T, 1> d_skip;
};

template <class S>
HEED_COLD void check_ssd(const checker& check, const ssd_inputs<S>& in, const setting<double>& scale, index_t chunk,
                         const sequence_offsets& cu) {
  const index_t heads = in.x.extent(1), groups = in.b.extent(1);
  check.tensor(in.x, "x");
  check.require(in.x.extent(3) > 0, "x.extent(3) (P)", "at least 1", in.x.extent(3));
  for (int axis = 0; axis < 3; ++axis) check.extent(in.dt, "dt", axis, in.x.extent(axis), "as x");
  check.require(in.dt.data() != nullptr || is_empty(in.dt), "dt", "data", "a null pointer");
  check.extent(in.a, "a", 0, heads, "H, the heads of x");
  check.require(in.a.data() != nullptr || heads == 0, "a", "data", "a null pointer");
  for (index_t h = 0; h < heads; ++h)
    check.require(std::isfinite(in.a[h]) && in.a[h] <= 0, "a", "finite numbers of at most 0",
                  static_cast<double>(in.a[h]));
  check.tensor(in.b, "b");
  check.extent(in.b, "b", 0, in.x.extent(0), "B, as x");
  check.extent(in.b, "b", 2, in.x.extent(2), "N, as x");
  check.require(in.b.extent(3) > 0, "b.extent(3) (S)", "at least 1", in.b.extent(3));
  check.require(groups > 0 ? heads % groups == 0 : heads == 0, "b.extent(1) (G)", "a divisor of H, the heads of x",
                groups);
  check.tensor(in.c, "c");
  for (int axis = 0; axis < 4; ++axis) check.extent(in.c, "c", axis, in.b.extent(axis), "as b");
  if (in.d_skip) check.extent(in.d_skip, "d_skip", 0, heads, "H, the heads of x");
  check.require(std::isfinite(scale.or_default(1)), "options.scale", "a finite number", scale.or_default(1));
  check.require(chunk >= 1, "options.chunk", "at least 1", chunk);
  if (!cu) return;
  check.require(in.x.extent(0) == 1, "x.extent(0) (B)", "1 in a packed batch", in.x.extent(0));
  check_offsets(check, cu, "options.cu_seqlens", in.x.extent(2));
  check.require(cu.at(cu.size() - 1) == in.x.extent(2), "options.cu_seqlens", "N as the last offset",
                cu.at(cu.size() - 1));
}

/// A tensor of the extents of another, an output or not.
template <class T, class S, int Rank>
HEED_COLD void check_alike(const checker& check, const view<T, Rank>& tensor, const char* name,
                           const view<S, Rank>& other, const char* meaning) {
  for (int axis = 0; axis < Rank; ++axis) check.extent(tensor, name, axis, other.extent(axis), meaning);
  if constexpr (std::is_const_v<T>)
    check.tensor(tensor, name);
  else
    check.output(tensor, name);
}

template <class S>
linear_call<S> ssd_call(const ssd_inputs<S>& in, const view<S, 4>& y, const setting<double>& scale) noexcept {
  linear_call<S> call{};
  call.q = in.c;
  call.k = in.b;
  call.v = in.x;
  call.out = y;
  call.slopes = in.a;
  call.slope_sign = 1;
  call.steps = in.dt;
  call.skips = in.d_skip;
  call.scale = scale.or_default(1);
  call.chunk = 1;
  return call;
}

template <class S>
linear_call<S> ssd_forward_call(const ssd_inputs<S>& in, const view<S, 4>& y,
                                const recurrence_options<S>& options) noexcept {
  linear_call<S> call = ssd_call(in, y, options.scale);
  call.initial_state = options.initial_state;
  call.final_state = options.final_state;
  call.cu = options.cu_seqlens;
  call.reverse = options.reverse;
  call.chunk = options.chunk;
  return call;
}

/// ssd_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void ssd_forward_on(const ssd_inputs<S>& in, view<S, 4> y, const recurrence_options<S>& options) {
  static_assert(element<S>, "heed::ssd_forward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("ssd_forward");
    check_ssd(check, in, options.scale, options.chunk, options.cu_seqlens);
    check_alike(check, y, "y", in.x, "as x");
    check.require(options.q_offset.or_default(0) == 0, "options.q_offset", "0", options.q_offset.or_default(0));
    const linear_call<S> call = ssd_forward_call(in, y, options);
    const index_t sequences = call.streams().sequences, heads = in.x.extent(1);
    const index_t rows = in.b.extent(3), columns = in.x.extent(3);
    check_state(check, options.initial_state, "options.initial_state", sequences, heads, rows, columns);
    check_state(check, options.final_state, "options.final_state", sequences, heads, rows, columns);
    check_aliasing(check, y, "y", in.x, in.dt, in.a, in.b, in.c, in.d_skip, options.initial_state);
    check_aliasing(check, options.final_state, "options.final_state", in.x, in.dt, in.a, in.b, in.c, in.d_skip, y);

    const ssd_forward_chunks<A, S> chunks(call);
    recurrence_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

/// What a call of ssd_backward makes.
template <class S>
struct ssd_gradients {
  using T = accumulator_t<S>;
  view<S, 4> dx;
  view<T, 3> ddt;
  view<T, 2> da;
  view<S, 4> db, dc;
  view<T, 2> dd_skip;
};

template <class S>
ssd_gradient_call<S> ssd_backward_call(const ssd_inputs<S>& in, const view<const S, 4>& dy, const ssd_gradients<S>& out,
                                       const recurrence_backward_options<S>& options) noexcept {
  ssd_gradient_call<S> call{};
  call.forward = ssd_call(in, view<S, 4>{}, options.scale);
  call.forward.initial_state = options.initial_state;
  call.forward.cu = options.cu_seqlens;
  call.forward.reverse = options.reverse;
  call.forward.chunk = options.chunk;
  call.dout = dy;
  call.dq = out.dc;
  call.dk = out.db;
  call.dv = out.dx;
  call.dtoken_gates = out.ddt;
  call.dslopes = out.da;
  call.dskips = out.dd_skip;
  call.dinitial_state = options.dinitial_state;
  call.dfinal_state = options.dfinal_state;
  return call;
}

/// ssd_backward for an instruction set of the caller's choice.
template <class A, class S>
void ssd_backward_on(const ssd_inputs<S>& in, view<const S, 4> dy, const ssd_gradients<S>& out,
                     const recurrence_backward_options<S>& options) {
  static_assert(element<S>, "heed::ssd_backward: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("ssd_backward");
    check_ssd(check, in, options.scale, options.chunk, options.cu_seqlens);
    check_alike(check, dy, "dy", in.x, "as x");
    check_alike(check, out.dx, "dx", in.x, "as x");
    for (int axis = 0; axis < 3; ++axis) check.extent(out.ddt, "ddt", axis, in.dt.extent(axis), "as dt");
    check.require(out.ddt.data() != nullptr || is_empty(out.ddt), "ddt", "data", "a null pointer");
    check_scattered_output(check, out.ddt, "ddt");
    check_alike(check, out.db, "db", in.b, "as b");
    check_alike(check, out.dc, "dc", in.b, "as b");
    const ssd_gradient_call<S> call = ssd_backward_call(in, dy, out, options);
    const index_t sequences = call.forward.streams().sequences, heads = in.x.extent(1);
    const view<const accumulator_t<S>, 2> of_heads(nullptr, {sequences, heads});
    check_alike(check, out.da, "da", of_heads, "sequences, and heads of x");
    check.require(in.d_skip || !out.dd_skip, "dd_skip", "none without d_skip", "an output");
    if (out.dd_skip) check_alike(check, out.dd_skip, "dd_skip", of_heads, "sequences, and heads of x");
    check_states(check, call.forward, options);
    check_apart(check,
                memory_of(in.x, in.dt, in.a, in.b, in.c, in.d_skip, dy, options.initial_state, options.dfinal_state),
                out.dx, "dx", out.ddt, "ddt", out.da, "da", out.db, "db", out.dc, "dc", out.dd_skip, "dd_skip",
                options.dinitial_state, "options.dinitial_state");

    for (index_t s = 0; s < out.dd_skip.extent(0); ++s)
      for (index_t h = 0; h < heads; ++h) out.dd_skip(s, h) = 0;
    const ssd_backward_chunks<A, S> chunks(call);
    recurrence_backward_run(chunks, resolve(options.executor)).run(check, options.scratch);
  }
}

/// ssd_step for an instruction set of the caller's choice.
template <class A, class S>
void ssd_step_on(const ssd_inputs<S>& in, view<S, 4> y, view<accumulator_t<S>, 4> state,
                 const recurrence_step_options<S>& options) {
  static_assert(element<S>, "heed::ssd_step: tensors must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    const checker check("ssd_step");
    check_ssd(check, in, options.scale, 1, {});
    check_alike(check, y, "y", in.x, "as x");
    check_given_state(check, state, "state", in.x.extent(0), in.x.extent(1), in.b.extent(3), in.x.extent(3));
    check_apart(check, memory_of(in.x, in.dt, in.a, in.b, in.c, in.d_skip), y, "y", state, "state");

    const linear_call<S> call = ssd_call(in, y, options.scale);
    const linear_steps<A, S, gate_kind::token> steps(call, state);
    recurrence_step_run(steps, resolve(options.executor)).run(check, options.scratch);
  }
}

/// Inputs without data, for calls that are asked for their scratch.
template <class S>
ssd_inputs<S> ssd_extents(const view<const S, 4>& x, const view<const S, 4>& b) noexcept {
  return {x, {nullptr, {x.extent(0), x.extent(1), x.extent(2)}}, {nullptr, {x.extent(1)}}, b, b, {}};
}

}  // namespace detail

/// Scratch, in bytes, that ssd_forward needs for tensors of these extents and these options: what `options.scratch`
/// must hold. Data is not looked at, but for cu_seqlens.
template <element T, class A = default_arch>
index_t ssd_forward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& x,
                                  const std::type_identity_t<view<const T, 4>>& b,
                                  const std::type_identity_t<recurrence_options<T>>& options = {}) {
  const auto call = detail::ssd_forward_call<T>(detail::ssd_extents<T>(x, b), {}, options);
  const detail::ssd_forward_chunks<A, T> chunks(call);
  return detail::recurrence_run(chunks, detail::resolve(options.executor)).bytes();
}

/// The same of ssd_backward.
template <element T, class A = default_arch>
index_t ssd_backward_scratch_bytes(const std::type_identity_t<view<const T, 4>>& x,
                                   const std::type_identity_t<view<const T, 4>>& b,
                                   const std::type_identity_t<recurrence_backward_options<T>>& options = {}) {
  const auto call = detail::ssd_backward_call<T>(detail::ssd_extents<T>(x, b), {}, {}, options);
  const detail::ssd_backward_chunks<A, T> chunks(call);
  return detail::recurrence_backward_run(chunks, detail::resolve(options.executor)).bytes();
}

/// The same of ssd_step.
template <element T, class A = default_arch>
index_t ssd_step_scratch_bytes(const std::type_identity_t<view<const T, 4>>& x,
                               const std::type_identity_t<view<const T, 4>>& b,
                               const std::type_identity_t<recurrence_step_options<T>>& options = {}) {
  const auto call = detail::ssd_call<T>(detail::ssd_extents<T>(x, b), {}, {});
  const detail::linear_steps<A, T, detail::gate_kind::token> steps(call, {});
  return detail::recurrence_step_run(steps, detail::resolve(options.executor)).bytes();
}

/// Mamba-2's selective state space layer, by state space duality. Of each head, with state h, and b and c of the group
/// head / (H/G):
///     h_t = exp(dt_t a) h_{t-1} + dt_t b_t x_t^T     y_t = scale h_t^T c_t + d_skip x_t
/// which is linear attention with queries c, keys b, values dt x and a gate exp(dt a) a token. Values and gates are
/// made a chunk at a time.
///
/// x      [B,H,N,P]  inputs
/// dt     [B,H,N]    steps, at least 0: after softplus and bias; float (double for double), any strides. A step of 0
///                   leaves the state alone
/// a      [H]        rates, at most 0: -exp(A_log) of Mamba-2; float (double for double)
/// b, c   [B,G,N,S]  what writes to the state and reads it; H a multiple of G, whose heads share them
/// d_skip [H]        share of x that goes to y as it is, float (double for double), or {} for none
/// y      [B,H,N,P]  output; must not overlap an input. Its element type, float, double, bfloat16 or float16, is that
///                   of x, b and c. Any outer strides; the last axis contiguous
/// options           see recurrence_options; scale defaults to 1, q_offset is 0, and states are [B,H,S,P]
///
/// Legal edges: N = 0.
/// Cost: 2 S P + chunk (S + P) / 2 multiply-adds a token and head, and one exponential. Scratch
/// O(chunk (S + P + chunk) + S P) a worker; with fewer heads than workers, up to 17 states each and four times as
/// much a worker (ssd_forward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads. options.chunk changes the result within rounding.
/// Accuracy: accumulates in float (double for double): |error| <= 2e-5 (1 + max |y|) for inputs of unit variance, plus
/// the rounding of y to its type.
/// Throws heed::invalid_argument before any write: extents that do not fit, H not a multiple of G, P or S zero, a last
/// axis that is not contiguous, missing data, overlapping outputs, a rate above 0 or not finite, scale not finite,
/// chunk < 1, states of other extents, offsets that decrease or do not end at N.
/// Paper: Dao, Gu, Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space
/// Duality, 2024, section 6.
template <writable<4> Y>
void ssd_forward(std::type_identity_t<view<const element_of_t<Y>, 4>> x,
                 std::type_identity_t<view<const accumulator_t<element_of_t<Y>>, 3>> dt,
                 std::type_identity_t<view<const accumulator_t<element_of_t<Y>>, 1>> a,
                 std::type_identity_t<view<const element_of_t<Y>, 4>> b,
                 std::type_identity_t<view<const element_of_t<Y>, 4>> c,
                 std::type_identity_t<view<const accumulator_t<element_of_t<Y>>, 1>> d_skip, Y&& y,
                 const std::type_identity_t<recurrence_options<element_of_t<Y>>>& options = {}) {
  detail::ssd_forward_on<default_arch, element_of_t<Y>>({x, dt, a, b, c, d_skip},
                                                        view_traits<std::remove_reference_t<Y>>::make(y), options);
}

/// Gradients of ssd_forward: of sum(dy * y) + sum(dfinal_state * final state).
///
/// x, dt, a, b, c, d_skip   what forward was given
/// dy      [B,H,N,P]  gradient by y
/// dx      [B,H,N,P]  gradient by x, an output as are the others; none may overlap an input or another output
/// ddt     [B,H,N]    gradient by dt, float (double for double), as are da and dd_skip
/// da      [B,H]      gradient by a of every sequence alone ([n,H] of n packed ones): those of the batch are sums over
///                    the first axis
/// db, dc  [B,G,N,S]  gradients by b and c: sums over the heads that share them. Element types are that of dx
/// dd_skip [B,H]      gradient by d_skip of every sequence alone, or {} for none
/// options            see recurrence_backward_options; scale defaults to 1, and states are [B,H,S,P]
///
/// Legal edges: N = 0.
/// Cost: about three times that of forward; heads of a group follow each other, groups and sequences are tasks.
/// Scratch O(chunk (S + P + chunk)) and 67 states a worker, and one more for every 64 chunks of the longest sequence
/// (ssd_backward_scratch_bytes): options.scratch, or memory that the thread keeps.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: |error| <= 1e-4 (1 + max |gradient|) in float for inputs of unit variance, of ddt and da 5e-4
/// (1 + max |gradient|), plus the rounding to the outputs' type. db and dc are rounded once a head, so that what counts
/// is the largest sum over some of the heads: in 16 bits, ask for them with G = H and add them up where heads are many.
/// Throws heed::invalid_argument before any write: as ssd_forward; dd_skip without d_skip.
/// Paper: as ssd_forward.
template <writable<4> DX>
void ssd_backward(std::type_identity_t<view<const element_of_t<DX>, 4>> x,
                  std::type_identity_t<view<const accumulator_t<element_of_t<DX>>, 3>> dt,
                  std::type_identity_t<view<const accumulator_t<element_of_t<DX>>, 1>> a,
                  std::type_identity_t<view<const element_of_t<DX>, 4>> b,
                  std::type_identity_t<view<const element_of_t<DX>, 4>> c,
                  std::type_identity_t<view<const accumulator_t<element_of_t<DX>>, 1>> d_skip,
                  std::type_identity_t<view<const element_of_t<DX>, 4>> dy, DX&& dx,
                  std::type_identity_t<view<accumulator_t<element_of_t<DX>>, 3>> ddt,
                  std::type_identity_t<view<accumulator_t<element_of_t<DX>>, 2>> da,
                  std::type_identity_t<view<element_of_t<DX>, 4>> db,
                  std::type_identity_t<view<element_of_t<DX>, 4>> dc,
                  std::type_identity_t<view<accumulator_t<element_of_t<DX>>, 2>> dd_skip,
                  const std::type_identity_t<recurrence_backward_options<element_of_t<DX>>>& options = {}) {
  detail::ssd_backward_on<default_arch, element_of_t<DX>>(
      {x, dt, a, b, c, d_skip}, dy, {view_traits<std::remove_reference_t<DX>>::make(dx), ddt, da, db, dc, dd_skip},
      options);
}

/// Takes the newest tokens into the states of heads and reads them, as ssd_forward does.
///
/// x, dt, a, b, c, d_skip   as of ssd_forward, with N tokens of each sequence: one, or a few
/// y     [B,H,N,P]  output; must not overlap an input
/// state [B,H,S,P]  updated in place, float (double for double); last axis contiguous
/// options          see recurrence_step_options; scale defaults to 1
///
/// Legal edges: N = 0.
/// Cost: reads and writes the state once a token: 2 S P multiply-adds. Scratch O(S + P) a worker; allocates nothing
/// once the thread keeps enough, or with options.scratch (ssd_step_scratch_bytes).
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy, throws, paper: as ssd_forward; no state.
template <writable<4> Y, writable<4> State>
void ssd_step(std::type_identity_t<view<const element_of_t<Y>, 4>> x,
              std::type_identity_t<view<const accumulator_t<element_of_t<Y>>, 3>> dt,
              std::type_identity_t<view<const accumulator_t<element_of_t<Y>>, 1>> a,
              std::type_identity_t<view<const element_of_t<Y>, 4>> b,
              std::type_identity_t<view<const element_of_t<Y>, 4>> c,
              std::type_identity_t<view<const accumulator_t<element_of_t<Y>>, 1>> d_skip, Y&& y, State&& state,
              const std::type_identity_t<recurrence_step_options<element_of_t<Y>>>& options = {}) {
  detail::ssd_step_on<default_arch, element_of_t<Y>>({x, dt, a, b, c, d_skip},
                                                     view_traits<std::remove_reference_t<Y>>::make(y),
                                                     view_traits<std::remove_reference_t<State>>::make(state), options);
}

HEED_ARCH_END
