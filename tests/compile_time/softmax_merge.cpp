#include <heed/softmax.hpp>

void call(heed::view<const float, 4> out_a, heed::view<const float, 3> lse_a, heed::view<const float, 4> out_b,
          heed::view<const float, 3> lse_b, heed::view<float, 4> out, heed::view<float, 3> lse) {
  heed::softmax_merge(out_a, lse_a, out_b, lse_b, out, lse);
}
