/// Queries over several segments of keys.
#pragma once

#include "ops/softmax/problem.hpp"
#include "reference/softmax_segments.hpp"

#include <heed/mod/masks.hpp>
#include <heed/ops/softmax/segments.hpp>

#include <vector>

namespace softmax_test {

using heed::softmax_segment;

/// A problem with segments of 5, 0, 140 and 33 keys in place of its own; all batch entries share the first.
template <class Problem>
struct segmented : Problem {
  using S = typename Problem::storage;

  explicit segmented(const shape& s) : Problem(s) {
    for (const index_t M : {5, 0, 140, 33}) {
      const index_t batch = k.empty() ? 1 : s.B;
      k.push_back(support::normal_tensor<S, 4>({batch, s.G, M, s.D}, this->random));
      v.push_back(support::normal_tensor<S, 4>({batch, s.G, M, s.E}, this->random));
    }
  }

  template <class Mask = heed::detail::sees_all>
  std::vector<softmax_segment<S, Mask>> segments() const {
    std::vector<softmax_segment<S, Mask>> all;
    for (std::size_t n = 0; n < k.size(); ++n) all.push_back({k[n], v[n]});
    return all;
  }

  std::vector<tensor<S, 4>> k, v;
};

/// The segments of the definition, with positions, masks and weights.
template <class S, class Mask>
std::vector<reference::softmax_segment<S>> definition_of(const std::vector<softmax_segment<S, Mask>>& segments) {
  std::vector<reference::softmax_segment<S>> all;
  for (const auto& segment : segments) {
    const auto& options = segment.options;
    auto& one = all.emplace_back();
    one.k = segment.k;
    one.v = segment.v;
    if (options.log_weight)
      one.log_weight = [weights = options.log_weight](int h) { return static_cast<double>(weights[h]); };
    if (options.blend.given()) one.blend = options.blend.or_default(0);
    one.visible = [mask = segment.mask](int b, int h, int query, int key) {
      return static_cast<bool>(mask(position{b, h, query, key}));
    };
    one.window_left = options.window_left;
    one.window_right = options.window_right;
    if (options.q_offset.given()) one.q_offset = options.q_offset.or_default(0);
    one.kv_offset = options.kv_offset;
  }
  return all;
}

}  // namespace softmax_test
