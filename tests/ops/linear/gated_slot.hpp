/// Random problems of Gated Slot Attention.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/gated_slot.hpp"

#include <heed/ops/linear/gated_slot_forward.hpp>

#include <cmath>

namespace linear_test {

using heed::gated_slot_options;

struct slot_shape {
  index_t B = 1, H = 1, G = 1, N = 1, D = 8, E = 8, S = 8;
};

/// Write strengths of a problem: those that the gates leave room for, or N(0, 1).
enum class strengths { tied, free };

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct slot_problem {
  using storage = S;
  using T = heed::accumulator_t<S>;

  explicit slot_problem(const slot_shape& x, double tau = 4, unsigned seed = 1, strengths write = strengths::tied,
                        index_t sequences = 0)
      : random(seed) {
    const index_t states = sequences > 0 ? sequences : x.B;
    q = support::normal_tensor<S, 4>({x.B, x.H, x.N, x.D}, random);
    k = support::normal_tensor<S, 4>({x.B, x.G, x.N, x.D}, random);
    v = support::normal_tensor<S, 4>({x.B, x.G, x.N, x.E}, random);
    g = random_gates<T, 4>({x.B, x.G, x.N, x.S}, tau, random);
    s = support::normal_tensor<T, 4>({x.B, x.G, x.N, x.S}, random);
    if (write == strengths::tied)
      for (index_t i = 0; i < s.size(); ++i) s.data()[i] = -std::expm1(g.data()[i]);
    initial_keys = support::normal_tensor<T, 4>({states, x.G, x.D, x.S}, random);
    initial_values = support::normal_tensor<T, 4>({states, x.G, x.S, x.E}, random);
    out = tensor<S, 4>::full({x.B, x.H, x.N, x.E}, support::quiet_nan<S>);
    scores = tensor<T, 4>::full({x.B, x.H, x.N, x.S}, support::quiet_nan<T>);
    final_keys = tensor<T, 4>::full({states, x.G, x.D, x.S}, support::quiet_nan<T>);
    final_values = tensor<T, 4>::full({states, x.G, x.S, x.E}, support::quiet_nan<T>);
  }

  support::random_engine random;
  tensor<S, 4> q, k, v, out;
  tensor<T, 4> s, g, initial_keys, initial_values, scores, final_keys, final_values;
};

/// The definition of a call.
template <class S>
reference::gated_slots definition(const slot_problem<S>& p, const gated_slot_options<S>& options) {
  return {reference::in_double(p.q),
          reference::in_double(p.k),
          reference::in_double(p.v),
          reference::in_double(p.s),
          reference::in_double(p.g),
          options.scale.or_default(1 / std::sqrt(static_cast<double>(p.k.extent(3)))),
          reference::in_double(options.initial_keys),
          reference::in_double(options.initial_values),
          offsets_of(options.cu_seqlens)};
}

/// Solves p, scores and slots and all, on an instruction set of the caller's choice.
template <class A, class S>
void solve_on(slot_problem<S>& p, gated_slot_options<S> options = {}) {
  options.final_keys = p.final_keys;
  options.final_values = p.final_values;
  options.scores = p.scores;
  heed::detail::gated_slot_forward_on<A, S>(p.q, p.k, p.v, p.s, p.g, p.out, options);
}
template <class S>
void solve(slot_problem<S>& p, const gated_slot_options<S>& options = {}) {
  solve_on<heed::default_arch, S>(p, options);
}

/// The worst error against the definition, of all outputs.
template <class S>
double error(const slot_problem<S>& p, const reference::gated_slot_result& expected) {
  using T = typename slot_problem<S>::T;
  return worse(worse(error<S>(p.out, expected.out), error<T>(p.scores, expected.scores)),
               worse(error<T>(p.final_keys, expected.final_keys), error<T>(p.final_values, expected.final_values)));
}

template <class A, class S>
double error_on(slot_problem<S>& p, const gated_slot_options<S>& options = {}) {
  const reference::gated_slot_result expected = reference::gated_slot(definition(p, options));
  solve_on<A, S>(p, options);
  return error(p, expected);
}
template <class S>
double error_of(slot_problem<S>& p, const gated_slot_options<S>& options = {}) {
  return error_on<heed::default_arch, S>(p, options);
}

template <class S>
bool same_result(const slot_problem<S>& a, const slot_problem<S>& b) {
  using T = typename slot_problem<S>::T;
  return same_bits<S, 4>(a.out, b.out) && same_bits<T, 4>(a.scores, b.scores) &&
         same_bits<T, 4>(a.final_keys, b.final_keys) && same_bits<T, 4>(a.final_values, b.final_values);
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::gated_slot_forward_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::gated_slot_forward_on<heed::default_arch, heed::bfloat16>);
