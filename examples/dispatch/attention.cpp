// Compiled once for every machine, with other flags each time. It does nothing but call heed: inline functions of the
// standard library used here would be compiled for several machines under one name.
#include "attention.hpp"

#include <heed/softmax.hpp>

namespace attention::ATTENTION_MACHINE {

void causal(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
            heed::view<float, 4> out) {
  heed::softmax_forward(q, k, v, out, {}, heed::causal{});
}

}  // namespace attention::ATTENTION_MACHINE
