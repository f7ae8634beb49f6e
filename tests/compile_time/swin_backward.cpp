#include <heed/ops/local/swin_backward.hpp>

void call(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<const float, 4> out, heed::view<const float, 3> lse, heed::view<const float, 4> dout,
          heed::view<float, 4> dq, heed::view<float, 4> dk, heed::view<float, 4> dv) {
  heed::swin_backward(q, k, v, out, lse, dout, dq, dk, dv);
}
