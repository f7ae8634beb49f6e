#include <heed/ops/linear/agent_forward.hpp>

void call(heed::view<const float, 4> q, heed::view<const float, 4> a, heed::view<const float, 4> k,
          heed::view<const float, 4> v, heed::view<float, 4> out) {
  heed::agent_forward(q, a, k, v, out);
}
