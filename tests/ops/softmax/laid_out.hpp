/// Copies of tensors in other layouts of memory.
#pragma once

#include "ops/softmax/problem.hpp"
#include "support/guarded.hpp"

namespace softmax_test {

using support::guarded;
using support::layout;

template <class S>
void copy_into(const view<const S, 4>& from, const view<S, 4>& to) {
  for (index_t b = 0; b < from.extent(0); ++b)
    for (index_t h = 0; h < from.extent(1); ++h)
      for (index_t i = 0; i < from.extent(2); ++i)
        for (index_t d = 0; d < from.extent(3); ++d) to(b, h, i, d) = from(b, h, i, d);
}

template <class S>
guarded<S, 4> laid_out(const tensor<S, 4>& t, layout where) {
  // Whoever reads beside the tensor finds NaN.
  guarded<S, 4> other({t.extent(0), t.extent(1), t.extent(2), t.extent(3)}, where, S(0), support::quiet_nan<S>);
  copy_into<S>(t, other.all());
  return other;
}

}  // namespace softmax_test
