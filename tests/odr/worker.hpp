/// How a program calls kernels compiled for several machines: functions of its own, one per machine, over types that do not
/// depend on the machine.
#pragma once

#include <heed/core/view.hpp>

#define HEED_ODR_WORKER(machine)                                                                        \
  namespace odr::machine {                                                                              \
  /* The name of the arch namespace that this worker's calls resolve to. */                             \
  const char* arch();                                                                                   \
  /* Floats in a register. */                                                                           \
  int lanes();                                                                                          \
  /* Causal softmax attention with scores 30 tanh(s / 30) - (distance of query and key). */             \
  void attend(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v, \
              heed::view<float, 4> out);                                                                \
  }

HEED_ODR_WORKER(v1)
HEED_ODR_WORKER(v3)
HEED_ODR_WORKER(v4)
