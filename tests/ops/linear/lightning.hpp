/// Random problems of Lightning Attention.
#pragma once

#include "ops/linear/gated_backward.hpp"

#include <heed/ops/linear/lightning.hpp>

namespace linear_test {

/// A problem whose states are those of query heads. Slopes from 0 to `fastest`.
template <class S>
struct lightning_problem : backward_problem<S> {
  using T = typename problem<S>::T;

  explicit lightning_problem(const shape& s, double fastest = 0.5, unsigned seed = 1, index_t sequences = 0)
      : backward_problem<S>(s, 4, seed, sequences) {
    const index_t states = this->initial_state.extent(0);
    slopes = tensor<T, 1>({s.H});
    for (index_t h = 0; h < s.H; ++h)
      slopes(h) = static_cast<T>(fastest * static_cast<double>(h) / static_cast<double>(s.H > 1 ? s.H - 1 : 1));
    this->initial_state = support::normal_tensor<T, 4>({states, s.H, s.D, s.E}, this->random);
    this->dfinal_state = support::normal_tensor<T, 4>({states, s.H, s.D, s.E}, this->random);
    this->final_state = tensor<T, 4>::full({states, s.H, s.D, s.E}, support::quiet_nan<T>);
    this->dinitial_state = this->final_state;
    dslopes = tensor<T, 2>::full({states, s.H}, support::quiet_nan<T>);
  }

  tensor<T, 1> slopes;
  tensor<T, 2> dslopes;
};

/// The definition of a call, gates aside.
template <class S>
reference::recurrence definition(const lightning_problem<S>& p, const recurrence_options<S>& options) {
  reference::recurrence r = definition<S>(p, gates::token, options);
  r.key_gate = {};
  r.scale = options.scale.or_default(1);
  return r;
}

template <class A, class S>
double forward_error_on(lightning_problem<S>& p, recurrence_options<S> options = {}) {
  using T = typename problem<S>::T;
  const auto expected = reference::lightning(definition(p, options), reference::in_double(p.slopes));
  options.final_state = p.final_state;
  heed::detail::lightning_forward_on<A, S>(p.q, p.k, p.v, p.slopes, p.out, options);
  return worse(error<S>(p.out, expected.out), error<T>(p.final_state, expected.final_state));
}
template <class S>
double forward_error(lightning_problem<S>& p, const recurrence_options<S>& options = {}) {
  return forward_error_on<heed::default_arch, S>(p, options);
}

/// -sum of the gradients by the log gates of the tokens of each sequence.
inline tensor<double, 2> slope_gradients(const tensor<double, 4>& dgates, const std::vector<index_t>& cu) {
  const index_t sequences = cu.empty() ? dgates.extent(0) : static_cast<index_t>(cu.size()) - 1;
  tensor<double, 2> sums({sequences, dgates.extent(1)});
  for (index_t s = 0; s < sequences; ++s) {
    const auto n = static_cast<std::size_t>(s);
    const index_t begin = cu.empty() ? 0 : cu[n], end = cu.empty() ? dgates.extent(2) : cu[n + 1];
    for (index_t h = 0; h < dgates.extent(1); ++h)
      for (index_t t = begin; t < end; ++t)
        for (index_t d = 0; d < dgates.extent(3); ++d) sums(s, h) -= dgates(cu.empty() ? s : 0, h, t, d);
  }
  return sums;
}

template <class A, class S>
double backward_error_on(lightning_problem<S>& p, recurrence_backward_options<S> options = {}) {
  using T = typename problem<S>::T;
  const auto expected =
      reference::lightning_backward(definition(p, forward_options(options)), reference::in_double(p.slopes),
                                    reference::in_double(p.dout), reference::in_double(options.dfinal_state));
  options.dinitial_state = p.dinitial_state;
  heed::detail::lightning_backward_on<A, S>(p.q, p.k, p.v, p.slopes, p.dout, p.dq, p.dk, p.dv, p.dslopes, true,
                                            options);
  double worst =
      worse(error<S>(p.dq, expected.dq, gradient_tolerance<S>), error<S>(p.dk, expected.dk, gradient_tolerance<S>));
  worst = worse(worst, error<S>(p.dv, expected.dv, gradient_tolerance<S>));
  worst = worse(worst, error<T>(p.dinitial_state, expected.dinitial_state, gradient_tolerance<T>));
  return worse(worst, error<T>(p.dslopes, slope_gradients(expected.dkey_gate, offsets_of(options.cu_seqlens)),
                               gate_gradient_tolerance<T>));
}
template <class S>
double backward_error(lightning_problem<S>& p, const recurrence_backward_options<S>& options = {}) {
  return backward_error_on<heed::default_arch, S>(p, options);
}

}  // namespace linear_test
