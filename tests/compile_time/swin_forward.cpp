#include <heed/ops/local/swin_forward.hpp>

void call(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<float, 4> out) {
  heed::swin_forward(q, k, v, out);
}
