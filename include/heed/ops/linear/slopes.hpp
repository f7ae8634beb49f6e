/// How fast the heads of Lightning Attention and of retention forget, in the papers and released models.
#pragma once

#include <heed/core/error.hpp>
#include <heed/core/tensor.hpp>
#include <heed/mod/score.hpp>

#include <cmath>

HEED_ARCH_BEGIN
namespace detail {

/// [heads] of slope(head), once the arguments are checked.
template <class T, class Slope>
tensor<T, 1> slopes_by(const char* name, index_t heads, index_t layer, index_t layers, const Slope& slope) {
  const checker check(name);
  check.require(heads >= 0, "heads", "at least 0", heads);
  check.require(layers >= 1, "layers", "at least 1", layers);
  check.require(layer >= 0 && layer < layers, "layer", "0 to layers - 1", layer);
  tensor<T, 1> slopes({heads});
  for (index_t h = 0; h < heads; ++h) slopes(h) = static_cast<T>(slope(h));
  return slopes;
}

}  // namespace detail

/// [heads]: slopes of a layer as released models of Lightning Attention (TransNormerLLM) have them:
///     alibi_slope(h, heads) (1 - layer / (layers - 1) + 1e-5)
/// so that the last layer hardly forgets. One layer alone has the factor 1 + 1e-5.
/// T: float, or double for lightning_forward of double.
/// Throws heed::invalid_argument: heads < 0, layers < 1, layer not in 0 .. layers - 1.
template <class T = float>
tensor<T, 1> lightning_slopes(index_t heads, index_t layer = 0, index_t layers = 1) {
  const double part = layers > 1 ? static_cast<double>(layer) / static_cast<double>(layers - 1) : 0;
  return detail::slopes_by<T>("lightning_slopes", heads, layer, layers,
                              [&](index_t h) { return alibi_slope(h, heads) * (1 - part + 1e-5); });
}

/// [heads]: slopes of a layer that grow evenly from head to head, (8 h / heads) (1 - layer / layers). Head 0 forgets
/// nothing. Throws as lightning_slopes.
/// Paper: Qin et al., TransNormerLLM, 2023, section 3.1.
template <class T = float>
tensor<T, 1> linear_slopes(index_t heads, index_t layer = 0, index_t layers = 1) {
  const double rest = 1 - static_cast<double>(layer) / static_cast<double>(layers);
  return detail::slopes_by<T>("linear_slopes", heads, layer, layers, [&](index_t h) {
    return 8 * static_cast<double>(h) / static_cast<double>(heads) * rest;
  });
}

/// [heads]: slopes of retention, -log(1 - 2^(-5 - h)), the same in all layers. Throws as lightning_slopes.
/// Paper: Sun et al., Retentive Network, 2023, section 3.1.
template <class T = float>
tensor<T, 1> retention_slopes(index_t heads) {
  return detail::slopes_by<T>("retention_slopes", heads, 0, 1,
                              [](index_t h) { return -std::log1p(-std::exp2(-5 - static_cast<double>(h))); });
}

HEED_ARCH_END
