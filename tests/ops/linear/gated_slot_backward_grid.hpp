/// The shapes that gradients of Gated Slot Attention go through for one element type.
#pragma once

#include "ops/linear/gated_slot_backward.hpp"
#include "ops/linear/gated_slot_grid.hpp"

namespace linear_test {

template <class S>
void check_slot_backward() {
  for_each_slot_shape<slot_backward_problem<S>>([](slot_backward_problem<S>& p, unsigned round) {
    gated_slot_backward_options<S> options;
    if (round % 4 != 0) {
      options.initial_keys = p.initial_keys;
      options.initial_values = p.initial_values;
    }
    if (round % 3 != 0) {
      options.dfinal_keys = p.dfinal_keys;
      options.dfinal_values = p.dfinal_values;
    }
    if (round % 5 == 1) options.scale = -0.6;
    CHECK(error_of<S>(p, options) <= 1);
  });
}

}  // namespace linear_test
