#include <heed/ops/linear/efficient.hpp>

void call(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<const float, 3> key_max, heed::view<const float, 3> key_sum, heed::view<const float, 4> dout,
          heed::view<float, 4> dq, heed::view<float, 4> dk, heed::view<float, 4> dv) {
  heed::efficient_backward(q, k, v, key_max, key_sum, dout, dq, dk, dv);
}
