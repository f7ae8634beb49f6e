#include <heed/ops/local/channel_forward.hpp>

void call(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<float, 4> out) {
  heed::channel_forward(q, k, v, out);
}
