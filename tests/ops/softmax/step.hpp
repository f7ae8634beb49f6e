/// Random decoding problems for softmax_step, measured as those of softmax_forward.
#pragma once

#include "ops/softmax/problem.hpp"

#include <heed/ops/softmax/step.hpp>

namespace softmax_test {

using heed::softmax_step_options;

/// Panels of 1, 2, 3 and 4 rows and several, heads that share a panel with others, more rows than share a reading.
struct group {
  index_t H, G, N;
};
inline constexpr group groups[] = {{1, 1, 1}, {2, 1, 1}, {6, 2, 1}, {4, 1, 1}, {4, 4, 1},  {8, 1, 1},
                                   {2, 1, 2}, {3, 1, 3}, {6, 2, 5}, {1, 1, 7}, {16, 1, 3}, {5, 1, 13}};

inline shape shape_of(const group& g, index_t M, index_t D, index_t E, index_t B = 1) {
  return {B, g.H, g.G, g.N, M, D, E};
}

/// What the definition calls the options of a step.
template <class S>
softmax_options<S> as_forward(const softmax_step_options<S>& options) {
  return {.scale = options.scale,
          .softcap = options.softcap,
          .bias = options.bias,
          .sink = options.sink,
          .lse = options.lse,
          .window_left = options.window_left,
          .window_right = options.window_right,
          .q_offset = options.q_offset,
          .kv_offset = options.kv_offset};
}

/// The worst error of p.out and p.lse as the result of a step. With lengths, each sequence counts as a call of its own,
/// so mods must not ask for the batch entry, and there must be no bias.
template <class S, class... Mods>
double step_error(const problem<S>& p, const softmax_step_options<S>& options, double gain, const Mods&... mods) {
  reference::softmax_arguments arguments = arguments_of<S>(as_forward(options));
  arguments.gain = gain;
  (add_mod(arguments, mods), ...);
  if (!options.kv_lengths) return worst_error(p, reference::softmax<S>(p.q, p.k, p.v, arguments));
  double worst = 0;
  for (index_t b = 0; b < p.q.extent(0); ++b) {
    const auto entry = [b](const auto& t) { return t.all().slice(0, b, b + 1); };
    const auto live = [&](const auto& t) { return entry(t).slice(2, 0, options.kv_lengths.at(b)); };
    worst = worse(worst, worst_error<S>(entry(p.out), entry(p.lse),
                                        reference::softmax<S>(entry(p.q), live(p.k), live(p.v), arguments)));
  }
  return worst;
}

/// Solves p with softmax_step and returns the worst error.
template <class S, class... Mods>
double step_error_of(problem<S>& p, softmax_step_options<S> options, double gain, const Mods&... mods) {
  options.lse = p.lse;
  heed::softmax_step(p.q, p.k, p.v, p.out, options, mods...);
  return step_error(p, options, gain, mods...);
}

template <class S>
double step_error_of(problem<S>& p, const softmax_step_options<S>& options = {}) {
  return step_error_of(p, options, 1);
}

/// As forward_call.
template <class S, class... Mods>
using step_call = void(view<const S, 4>, view<const S, 4>, view<const S, 4>, view<S, 4>, const softmax_step_options<S>&,
                       const Mods&...);

}  // namespace softmax_test

#include "ops/softmax/instances.hpp"

HEED_TEST_INSTANCE(heed::detail::softmax_step_on<heed::default_arch, float>);
HEED_TEST_INSTANCE(heed::detail::softmax_step_on<heed::default_arch, heed::bfloat16>);
HEED_TEST_INSTANCE_OF(softmax_test::step_call<float, heed::causal>
                          heed::detail::softmax_step_on<heed::default_arch, float, heed::causal>);
HEED_TEST_INSTANCE_OF(softmax_test::step_call<heed::bfloat16, heed::causal>
                          heed::detail::softmax_step_on<heed::default_arch, heed::bfloat16, heed::causal>);
