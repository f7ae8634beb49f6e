/// Gradients by the sinks of heads.
#pragma once

#include <heed/core/executor.hpp>
#include <heed/kernel/gradient_rows.hpp>

#include <cmath>
#include <limits>

HEED_ARCH_BEGIN
namespace detail {

/// The gradient by the sink of a head: by its weight in every row, in double, as there is one number for all rows.
template <class A, class S, class G>
accumulator_t<S> sink_gradient(const softmax_gradient_rows<S, G>& rows, int head) noexcept {
  using T = accumulator_t<S>;
  double sum = 0;
  for (index_t s = 0; s < rows.sequences(); ++s) {
    const auto [batch, first, count] = rows.queries(s);
    for (index_t i = first; i < first + count; ++i) {
      const T lse = rows.lse(batch, head, i);
      if (lse == -std::numeric_limits<T>::infinity()) continue;
      const T mean = gradient_mean<T, A>(&rows.dout(batch, head, i, 0), &rows.out(batch, head, i, 0),
                                         rows.out.extent(3), rows.dlse ? rows.dlse(batch, head, i) : T(0));
      sum -= std::exp(double(rows.sink[head]) - double(lse)) * double(mean);
    }
  }
  return static_cast<T>(sum);
}

/// Those of all heads, if they are wanted.
template <class A, class S, class G>
void write_sink_gradients(const softmax_gradient_rows<S, G>& rows, const executor_ref& where) {
  if (!rows.dsink) return;
  auto of_head = [&](index_t head, index_t) { rows.dsink[head] = sink_gradient<A>(rows, static_cast<int>(head)); };
  for_each_task(where, rows.q.extent(1), of_head);
}

}  // namespace detail
HEED_ARCH_END
