// Kernels for one machine; compiled several times. Thin on purpose: whatever else it used would be shared.
#include "worker.hpp"

#include <heed/linear.hpp>
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

/// Only the symbols of these are looked at.
void step(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<float, 4> out) {
  const int lengths[1] = {1};
  heed::softmax_step(q, k, v, out, {.kv_lengths = {lengths, 1}}, heed::causal{});
}

void recur(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
           heed::view<const float, 4> g, heed::view<float, 4> out, heed::view<float, 4> state) {
  heed::gated_linear_forward(q, k, v, g, out, {.final_state = state});
  heed::gated_linear_backward(q, k, v, g, q, out, out, out, out);
  heed::gated_linear_step(q, k, v, g, out, state);
}

void recur_slots(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
                 heed::view<const float, 4> s, heed::view<float, 4> out, heed::view<float, 4> state) {
  heed::gated_slot_forward(q, k, v, s, s, out);
  heed::gated_slot_backward(q, k, v, s, s, q, q, out, out, out, out, out);
  heed::gated_slot_step(q, k, v, s, s, out, state, state);
}

void fade(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
          heed::view<const float, 1> slopes, heed::view<float, 4> out, heed::view<float, 4> state) {
  heed::lightning_forward(q, k, v, slopes, out);
  heed::lightning_backward(q, k, v, slopes, q, out, out, out);
  heed::lightning_step(q, k, v, slopes, out, state);
}

void control(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v,
             heed::view<const float, 4> s, heed::view<float, 4> out, heed::view<float, 4> state,
             heed::view<float, 3> log_sums) {
  heed::abc_forward(q, k, v, s, out);
  heed::abc_backward(q, k, v, s, s, q, out, out, out, out);
  heed::abc_step(q, k, v, s, out, state, state, log_sums);
  heed::slot_gates_forward(q, out, state);
  heed::slot_gates_backward(q, k, v, out);
}

void scan(heed::view<const float, 4> x, heed::view<const float, 3> dt, heed::view<const float, 1> a,
          heed::view<float, 4> y, heed::view<float, 3> ddt, heed::view<float, 2> da, heed::view<float, 4> state) {
  heed::ssd_forward(x, dt, a, x, x, a, y);
  heed::ssd_backward(x, dt, a, x, x, a, x, y, ddt, da, y, y, da);
  heed::ssd_step(x, dt, a, x, x, a, y, state);
}

}  // namespace odr::HEED_ODR_MACHINE
