#include <heed/ops/local/luong_mlp.hpp>

void call(heed::view<const float, 3> q, heed::view<const float, 3> k, heed::view<const float, 1> v_a,
          heed::view<const float, 3> h_s, heed::view<float, 3> out) {
  heed::luong_mlp_forward(q, k, v_a, h_s, out);
}
