/// Random problems of gated linear attention.
#pragma once

#include "ops/linear/measure.hpp"
#include "reference/recurrence.hpp"

#include <heed/ops/linear/gated_forward.hpp>

#include <cmath>
#include <optional>

namespace linear_test {

using heed::recurrence_options;

struct shape {
  index_t B = 1, H = 1, G = 1, N = 1, D = 8, E = 8;
  std::optional<index_t> M{};  // N

  index_t keys() const { return M.value_or(N); }
};

/// Which gates of a problem a call gets: [B,G,M,D] or [B,G,M].
enum class gates { feature, token };
inline constexpr gates gate_kinds[] = {gates::feature, gates::token};

/// Inputs N(0, 1), outputs full of NaN.
template <class S>
struct problem {
  using storage = S;
  using T = heed::accumulator_t<S>;

  explicit problem(const shape& s, double tau = 4, unsigned seed = 1, index_t sequences = 0) : random(seed) {
    const index_t M = s.keys(), states = sequences > 0 ? sequences : s.B;
    q = support::normal_tensor<S, 4>({s.B, s.H, s.N, s.D}, random);
    k = support::normal_tensor<S, 4>({s.B, s.G, M, s.D}, random);
    v = support::normal_tensor<S, 4>({s.B, s.G, M, s.E}, random);
    feature_gates = random_gates<T, 4>({s.B, s.G, M, s.D}, tau, random);
    token_gates = random_gates<T, 3>({s.B, s.G, M}, tau, random);
    initial_state = support::normal_tensor<T, 4>({states, s.G, s.D, s.E}, random);
    out = tensor<S, 4>::full({s.B, s.H, s.N, s.E}, support::quiet_nan<S>);
    final_state = tensor<T, 4>::full({states, s.G, s.D, s.E}, support::quiet_nan<T>);
  }

  support::random_engine random;
  tensor<S, 4> q, k, v, out;
  tensor<T, 4> feature_gates;
  tensor<T, 3> token_gates;
  tensor<T, 4> initial_state, final_state;
};

/// The definition of a call.
template <class S>
reference::recurrence definition(const problem<S>& p, gates kind, const recurrence_options<S>& options) {
  reference::recurrence r;
  r.q = reference::in_double(p.q);
  r.k = reference::in_double(p.k);
  r.v = reference::in_double(p.v);
  r.key_gate = kind == gates::feature
                   ? reference::in_double(p.feature_gates)
                   : reference::for_every_feature(reference::in_double(p.token_gates), p.k.extent(3));
  r.scale = options.scale.or_default(1 / std::sqrt(static_cast<double>(p.k.extent(3))));
  r.initial_state = reference::in_double(options.initial_state);
  if (options.q_offset.given()) r.q_offset = options.q_offset.or_default(0);
  r.cu_seqlens = offsets_of(options.cu_seqlens);
  r.reverse = options.reverse;
  return r;
}

/// Solves p, states and all, on an instruction set of the caller's choice.
template <class A, class S>
void solve_on(problem<S>& p, gates kind, recurrence_options<S> options = {}) {
  using heed::detail::gate_kind;
  options.final_state = p.final_state;
  if (kind == gates::feature)
    heed::detail::gated_linear_forward_on<A, gate_kind::feature, S>(p.q, p.k, p.v, p.feature_gates, p.out, options);
  else
    heed::detail::gated_linear_forward_on<A, gate_kind::token, S>(p.q, p.k, p.v, p.token_gates, p.out, options);
}
template <class S>
void solve(problem<S>& p, gates kind, const recurrence_options<S>& options = {}) {
  solve_on<heed::default_arch, S>(p, kind, options);
}

/// Solves p and returns the worst error against the definition, of outputs and final state.
template <class A, class S>
double error_on(problem<S>& p, gates kind, const recurrence_options<S>& options = {}) {
  const reference::recurrence_result expected = reference::scan(definition(p, kind, options));
  solve_on<A, S>(p, kind, options);
  return worse(error<S>(p.out, expected.out), error<typename problem<S>::T>(p.final_state, expected.final_state));
}
template <class S>
double error_of(problem<S>& p, gates kind, const recurrence_options<S>& options = {}) {
  return error_on<heed::default_arch, S>(p, kind, options);
}

template <class S>
bool same_result(const problem<S>& a, const problem<S>& b) {
  return same_bits<S, 4>(a.out, b.out) && same_bits<typename problem<S>::T, 4>(a.final_state, b.final_state);
}

}  // namespace linear_test

#include "ops/linear/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::gated_linear_forward_on<heed::default_arch, heed::detail::gate_kind::feature, float>);
HEED_TEST_INSTANCE(heed::detail::gated_linear_forward_on<heed::default_arch, heed::detail::gate_kind::token, float>);
HEED_TEST_INSTANCE(
    heed::detail::gated_linear_forward_on<heed::default_arch, heed::detail::gate_kind::feature, heed::bfloat16>);
HEED_TEST_INSTANCE(
    heed::detail::gated_linear_forward_on<heed::default_arch, heed::detail::gate_kind::token, heed::bfloat16>);
