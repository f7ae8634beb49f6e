/// Gates and write strengths of Gated Slot Attention from the logits that a layer computes.
#pragma once

#include <heed/core/gated_slot_options.hpp>
#include <heed/kernel/chunk_rows.hpp>
#include <heed/kernel/recurrence_checks.hpp>

HEED_ARCH_BEGIN
namespace detail {

/// Logits of some slots: sigmoid(f) and its logarithm without loss of digits on either side.
template <class T, class A>
struct slot_logits {
  using P = pack<T, A>;

  explicit slot_logits(P f) noexcept : logit(f), small(exp(-abs(f))) {}

  P log_sigmoid() const noexcept { return min(logit, P(T(0))) - log1p(small); }
  /// sigmoid(-f).
  P complement() const noexcept { return select(logit < P(T(0)), P(T(1)), small) / (P(T(1)) + small); }

  P logit, small;
};

/// Calls row(b, g, i) for all rows of a tensor [B,G,N,S], some tokens of a head at a time.
template <class S, class Row>
void for_slot_rows(const executor_ref& where, const view<S, 4>& tensor, const Row& row) {
  constexpr index_t together = 64;
  if (is_empty(tensor)) return;
  const index_t tokens = tensor.extent(2), blocks = (tokens + together - 1) / together;
  auto task = [&](index_t number, index_t) {
    const index_t head = number / blocks, first = number % blocks * together;
    for (index_t i = first; i < std::min(tokens, first + together); ++i)
      row(head / tensor.extent(1), head % tensor.extent(1), i);
  };
  for_each_task(where, tensor.extent(0) * tensor.extent(1) * blocks, task);
}

template <class T, class S>
HEED_COLD void check_slot_gates(const checker& check, const view<const S, 4>& f, const view<T, 4>& tensor,
                                const char* name) {
  for (int axis = 0; axis < 4; ++axis) check.extent(tensor, name, axis, f.extent(axis), "as f");
  if constexpr (std::is_const_v<T>)
    check.tensor(tensor, name);
  else
    check.output(tensor, name);
}

inline void check_tau(const checker& check, double tau) {
  check.require(std::isfinite(tau) && tau > 0, "options.tau", "a finite number above 0", tau);
}

/// slot_gates_forward for an instruction set of the caller's choice; tests run them all in one binary.
template <class A, class S>
void slot_gates_forward_on(view<const S, 4> f, view<accumulator_t<S>, 4> s, view<accumulator_t<S>, 4> g,
                           const slot_gates_options& options) {
  static_assert(element<S>, "heed::slot_gates_forward: logits must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    using T = accumulator_t<S>;
    using P = pack<T, A>;
    const checker check("slot_gates_forward");
    check.tensor(f, "f");
    check_slot_gates(check, f, s, "s");
    check_slot_gates(check, f, g, "g");
    check_tau(check, options.tau);
    check_apart(check, memory_of(f), s, "s", g, "g");

    const P rate(static_cast<T>(1 / options.tau));
    for_slot_rows(resolve(options.executor), f, [&](index_t b, index_t h, index_t i) {
      const S* const logits = &f(b, h, i, 0);
      T *const strengths = &s(b, h, i, 0), *const gates = &g(b, h, i, 0);
      for_vectors<T, A>(f.extent(3), [&](index_t m, int some) {
        const P gate = slot_logits<T, A>(load_some<T, A>(logits + m, some)).log_sigmoid() * rate;
        store_some(gates + m, gate, some);
        store_some(strengths + m, -expm1(gate), some);
      });
    });
  }
}

/// slot_gates_backward for an instruction set of the caller's choice.
template <class A, class S>
void slot_gates_backward_on(view<const S, 4> f, view<const accumulator_t<S>, 4> ds, view<const accumulator_t<S>, 4> dg,
                            view<S, 4> df, const slot_gates_options& options) {
  static_assert(element<S>, "heed::slot_gates_backward: logits must be float, double, heed::bfloat16 or heed::float16");
  if constexpr (element<S>) {
    using T = accumulator_t<S>;
    using P = pack<T, A>;
    const checker check("slot_gates_backward");
    check.tensor(f, "f");
    check_slot_gates(check, f, ds, "ds");
    check_slot_gates(check, f, dg, "dg");
    check_slot_gates(check, f, df, "df");
    check_tau(check, options.tau);
    check_apart(check, memory_of(f, ds, dg), df, "df");

    const P rate(static_cast<T>(1 / options.tau));
    for_slot_rows(resolve(options.executor), f, [&](index_t b, index_t h, index_t i) {
      const S* const logits = &f(b, h, i, 0);
      const T *const dstrengths = &ds(b, h, i, 0), *const dgates = &dg(b, h, i, 0);
      S* const dlogits = &df(b, h, i, 0);
      for_vectors<T, A>(f.extent(3), [&](index_t m, int some) {
        const slot_logits<T, A> logit(load_some<T, A>(logits + m, some));
        const P gate = exp(logit.log_sigmoid() * rate);
        const P dgate = fma(-gate, load_some<T, A>(dstrengths + m, some), load_some<T, A>(dgates + m, some));
        store_some(dlogits + m, dgate * logit.complement() * rate, some);
      });
    });
  }
}

}  // namespace detail

/// Gates of slots from logits, and write strengths tied to them:
///     g = log(sigmoid(f)) / tau     s = 1 - exp(g)
/// A slot keeps exp(g) = sigmoid(f)^(1/tau) of what it holds and takes the rest from the token.
///
/// f     [B,G,N,S]  logits: float, double, bfloat16 or float16. Any outer strides; the last axis contiguous
/// s, g  [B,G,N,S]  outputs, float (double for double), for gated_slot_forward; must not overlap f or each other
/// options          see slot_gates_options; tau defaults to 8
///
/// Legal edges: any extent 0; f = -inf (g = -inf, s = 1), f = +inf (g = 0, s = 0).
/// Cost: O(B G N S), three functions of the exponential kind a logit. No scratch.
/// Deterministic: bit-equal for any executor and number of threads.
/// Accuracy: relative, 8 u of g and 10 u of s, u = 2^-24 (2^-53), however close to 0 they are: 1 - exp(g) as it stands
/// would lose all digits where gates are near 1. Below the normal range, a few units of the smallest number.
/// Throws heed::invalid_argument before any write: extents that differ, a strided last axis, null data, overlap of an
/// output, tau not finite or not above 0.
/// Paper: Zhang et al., Gated Slot Attention for Efficient Linear-Time Sequence Modeling, 2024, section 3.
template <readable<4> F>
void slot_gates_forward(const F& f, std::type_identity_t<view<accumulator_t<value_of_t<F>>, 4>> s,
                        std::type_identity_t<view<accumulator_t<value_of_t<F>>, 4>> g,
                        const slot_gates_options& options = {}) {
  detail::slot_gates_forward_on<default_arch, value_of_t<F>>(view_traits<const F>::make(f), s, g, options);
}

/// Gradient of slot_gates_forward by the logits: df = (dg - exp(g) ds) sigmoid(-f) / tau
///
/// f       [B,G,N,S]  what forward was given
/// ds, dg  [B,G,N,S]  gradients by s and g, of gated_slot_backward
/// df      [B,G,N,S]  output, of the element type of f; must not overlap an input
/// options            those of forward
///
/// Accuracy: |error| <= 16 u (|dg| + |ds|) sigmoid(-f) / tau, plus the rounding of df to its type. Everything else as
/// in slot_gates_forward.
template <writable<4> DF>
void slot_gates_backward(std::type_identity_t<view<const element_of_t<DF>, 4>> f,
                         std::type_identity_t<view<const accumulator_t<element_of_t<DF>>, 4>> ds,
                         std::type_identity_t<view<const accumulator_t<element_of_t<DF>>, 4>> dg, DF&& df,
                         const slot_gates_options& options = {}) {
  detail::slot_gates_backward_on<default_arch, element_of_t<DF>>(
      f, ds, dg, view_traits<std::remove_reference_t<DF>>::make(df), options);
}

HEED_ARCH_END
