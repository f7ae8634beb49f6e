#include <heed/ops/local/neighborhood_forward.hpp>

void call(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<float, 4> out) {
  heed::neighborhood_forward(q, k, v, out, {{.length = 64, .window = 7}, {.length = 64, .window = 7}});
}
