// Kernels for one machine; compiled several times. Thin on purpose: whatever else it used would be shared.
#include "worker.hpp"

#include <heed/softmax.hpp>

#define HEED_ODR_STRING_(name) #name
#define HEED_ODR_STRING(name) HEED_ODR_STRING_(name)

namespace odr::HEED_ODR_MACHINE {

const char* arch() { return HEED_ODR_STRING(HEED_ARCH); }

int lanes() { return heed::pack<float>::lanes; }

void attend(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
            heed::view<float, 4> out) {
  heed::softmax_options<float> options{};
  options.softcap = 30;
  heed::softmax_forward(q, k, v, out, options, heed::causal{},
                        [](auto score, auto at) { return score - heed::to_real(score, at.q - at.kv); });
}

/// Only its symbols are looked at.
void step(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<float, 4> out) {
  const int lengths[1] = {1};
  heed::softmax_step(q, k, v, out, {.kv_lengths = {lengths, 1}}, heed::causal{});
}

}  // namespace odr::HEED_ODR_MACHINE
