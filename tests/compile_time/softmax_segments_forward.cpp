#include <heed/softmax.hpp>

#include <tuple>

void call(heed::view<const float, 4> q, heed::view<const float, 4> prefix_k, heed::view<const float, 4> prefix_v,
          heed::view<const float, 4> k, heed::view<const float, 4> v, heed::view<float, 4> out) {
  const std::tuple segments{heed::softmax_segment{prefix_k, prefix_v}, heed::softmax_segment{k, v}};
  heed::softmax_segments_forward(q, segments, out);
}
