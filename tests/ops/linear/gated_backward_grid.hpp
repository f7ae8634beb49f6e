/// The shapes that gradients of gated linear attention go through for one element type.
#pragma once

#include "ops/linear/gated_backward.hpp"
#include "ops/linear/gated_grid.hpp"

namespace linear_test {

template <class S>
void check_backward() {
  for_each_shape<backward_problem<S>>([](backward_problem<S>& p, gates kind, unsigned round) {
    recurrence_backward_options<S> options;
    if (round % 4 != 0) options.initial_state = p.initial_state;
    if (round % 3 != 0) options.dfinal_state = p.dfinal_state;
    if (round % 5 == 1) options.scale = -0.6;
    options.reverse = round % 7 == 3;
    CHECK(error_of<S>(p, kind, options) <= 1);
  });
}

}  // namespace linear_test
