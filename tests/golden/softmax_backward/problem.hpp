/// Golden cases as calls of the reference.
#pragma once

#include "golden/softmax_backward/cases.hpp"
#include "reference/softmax_backward.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace golden {

using heed::tensor;

/// A golden case with the tensors that its call reads.
struct problem {
  explicit problem(const softmax_case& c)
      : q(c.get<double, 4>("q")), k(c.get<double, 4>("k")), v(c.get<double, 4>("v")), dout(c.get<double, 4>("dout")) {
    if (c.has("dlse")) dlse = c.get<double, 3>("dlse");
    call.scale = c.number("scale", 1 / std::sqrt(static_cast<double>(q.extent(3))));
    call.softcap = c.number("softcap", 0);
    call.q_offset = static_cast<index_t>(c.number("q_offset", static_cast<double>(k.extent(2) - q.extent(2))));
    call.kv_offset = static_cast<index_t>(c.number("kv_offset", 0));
    call.window_left = static_cast<index_t>(c.number("window_left", -1));
    call.window_right = static_cast<index_t>(c.number("window_right", -1));
    if (c.number("causal", 0) == 1) call.visible = [](int, int, int p, int t) { return t <= p; };
    if (c.has("bias")) {
      bias = c.get<double, 4>("bias");
      call.bias_extents = std::array<index_t, 4>{bias.extent(0), bias.extent(1), bias.extent(2), bias.extent(3)};
      call.bias = [this](int b, int h, index_t i, index_t j) {
        return bias(std::min<index_t>(b, bias.extent(0) - 1), std::min<index_t>(h, bias.extent(1) - 1),
                    std::min(i, bias.extent(2) - 1), std::min(j, bias.extent(3) - 1));
      };
    }
    if (c.has("sink")) {
      sink = c.get<double, 1>("sink");
      call.sink = [this](int h) { return sink(h); };
    }
    if (c.has("slopes")) {
      slopes = c.get<double, 1>("slopes");
      reference::score_function alibi;
      alibi.value = [this](double x, int, int h, int p, int t) { return x - slopes(h) * (p - t); };
      alibi.slope = [](double, int, int, int, int) { return 1; };
      alibi.partial = [](int n, double, int, int h, int p, int t) { return n == h ? t - p : 0; };
      alibi.parameters = static_cast<int>(slopes.size());
      reference::append_score(call, alibi);
    }
  }
  // The call reads the tensors of this object.
  problem(const problem&) = delete;

  tensor<double, 4> q, k, v, dout, bias;
  tensor<double, 3> dlse;
  tensor<double, 1> sink, slopes;
  reference::softmax_arguments call;
};

}  // namespace golden
