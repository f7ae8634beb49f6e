/// Attention with Bounded-memory Control that begins with slots and ends with some, in double, as the gated slots that
/// it is. reference::bounded_memory_attention is the quotient that it comes from.
#pragma once

#include <heed/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/gated_slot.hpp"

namespace reference {

/// With z_t = log(exp z_{t-1} + exp s_t) of each slot:   strength exp(s_t - z_t),  log gate z_{t-1} - z_t, and 0 where
/// z_{t-1} = -inf.
struct controlled_slots {
  gated_slots slots;                       // s: logits; g: empty
  heed::tensor<double, 3> initial_sums{};  // z before the first token, [B,G,S], packed [sequences,G,S]; empty: -inf
};

struct controlled_slot_result {
  gated_slot_result slots;
  heed::tensor<double, 3> final_sums;
};

struct controlled_slot_gradients {
  gated_slot_gradients slots;  // ds: by logits; dg: empty
  heed::tensor<double, 3> dinitial_sums;
};

namespace detail {

/// f(sequence, b, g, m, first token, last token + 1)
template <class F>
void for_each_slot(const gated_slots& a, const F& f) {
  const index_t sequences = a.cu_seqlens.empty() ? a.s.extent(0) : static_cast<index_t>(a.cu_seqlens.size()) - 1;
  for (index_t r = 0; r < sequences; ++r) {
    const auto n = static_cast<std::size_t>(r);
    const index_t begin = a.cu_seqlens.empty() ? 0 : a.cu_seqlens[n];
    const index_t end = a.cu_seqlens.empty() ? a.s.extent(2) : a.cu_seqlens[n + 1];
    for (index_t g = 0; g < a.s.extent(1); ++g)
      for (index_t m = 0; m < a.s.extent(3); ++m) f(r, a.cu_seqlens.empty() ? r : 0, g, m, begin, end);
  }
}

inline heed::tensor<double, 3> sums_like(const gated_slots& a) {
  return heed::tensor<double, 3>({a.cu_seqlens.empty() ? a.s.extent(0) : static_cast<index_t>(a.cu_seqlens.size()) - 1,
                                  a.s.extent(1), a.s.extent(3)});
}

}  // namespace detail

/// The gated slots, and z after the last token.
inline gated_slots with_gates(const controlled_slots& a, heed::tensor<double, 3>& final_sums) {
  constexpr double never = -std::numeric_limits<double>::infinity();
  gated_slots made = a.slots;
  made.g = zeros_like(a.slots.s);
  final_sums = detail::sums_like(a.slots);
  detail::for_each_slot(a.slots, [&](index_t r, index_t b, index_t g, index_t m, index_t begin, index_t end) {
    double z = given(a.initial_sums) ? a.initial_sums(r, g, m) : never;
    for (index_t t = begin; t < end; ++t) {
      const double x = a.slots.s(b, g, t, m), high = std::max(z, x), low = std::min(z, x);
      const double next = low == never ? high : high + std::log1p(std::exp(low - high));
      made.s(b, g, t, m) = x == never ? 0 : std::exp(x - next);
      made.g(b, g, t, m) = z == never ? 0 : z - next;
      z = next;
    }
    final_sums(r, g, m) = z;
  });
  return made;
}

inline controlled_slot_result controlled_slot(const controlled_slots& a) {
  controlled_slot_result result;
  result.slots = gated_slot(with_gates(a, result.final_sums));
  return result;
}

/// Of sum(dout * out) and, where they are given, of the final keys, values and sums in the same way. Through z: with
/// a_t = w_t dw_t,  y_t = -a_t - dg_t + dg_{t+1} + exp(g_{t+1}) y_{t+1},  ds_t = a_t + w_t y_t.
inline controlled_slot_gradients controlled_slot_backward(const controlled_slots& a,
                                                          const heed::tensor<double, 4>& dout,
                                                          const heed::tensor<double, 4>& dfinal_keys = {},
                                                          const heed::tensor<double, 4>& dfinal_values = {},
                                                          const heed::tensor<double, 3>& dfinal_sums = {}) {
  constexpr double never = -std::numeric_limits<double>::infinity();
  heed::tensor<double, 3> final_sums;
  const gated_slots made = with_gates(a, final_sums);
  controlled_slot_gradients result{gated_slot_backward(made, dout, dfinal_keys, dfinal_values),
                                   detail::sums_like(a.slots)};
  detail::for_each_slot(a.slots, [&](index_t r, index_t b, index_t g, index_t m, index_t begin, index_t end) {
    // Where z begins: the first logit that is not -inf, unless z was given.
    index_t first = begin;
    const double z = given(a.initial_sums) ? a.initial_sums(r, g, m) : never;
    if (z == never)
      while (first < end && a.slots.s(b, g, first, m) == never) ++first;
    double carry = given(dfinal_sums) ? dfinal_sums(r, g, m) : 0;
    for (index_t t = end - 1; t >= begin; --t) {
      const bool no_history = z == never && t <= first;
      const double w = made.s(b, g, t, m), direct = w * result.slots.ds(b, g, t, m);
      const double dg = no_history ? 0 : result.slots.dg(b, g, t, m);
      const double y = carry - direct - dg;
      result.slots.ds(b, g, t, m) = direct + w * y;
      carry = no_history ? 0 : dg + std::exp(made.g(b, g, t, m)) * y;
    }
    result.dinitial_sums(r, g, m) = carry;
  });
  result.slots.dg = {};
  return result;
}

}  // namespace reference
