/// Causal attention, compiled once for every machine. What crosses between the parts of the program is a function of
/// its own, over views: types that are the same whatever instruction set a file is compiled for.
#pragma once

#include <heed/core/view.hpp>

#define ATTENTION_FOR(machine)                                                                          \
  namespace attention::machine {                                                                        \
  /* q [B,H,N,D], k and v [B,G,M,D], out as q. Throws heed::invalid_argument. */                        \
  void causal(heed::view<const float, 4> q, heed::view<const float, 4> k, heed::view<const float, 4> v, \
              heed::view<float, 4> out);                                                                \
  }

ATTENTION_FOR(baseline)
ATTENTION_FOR(avx2)
ATTENTION_FOR(avx512)
