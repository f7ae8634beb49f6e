/// Agent attention from its definition, in double: two softmaxes, one after the other, and what its helpers compute.
#pragma once

#include "reference/softmax_backward.hpp"

#include <functional>
#include <optional>
#include <vector>

namespace reference {

/// Inputs in double. Biases are functions of (b, h, row, column), with the extents of their gradients.
struct agent_attention {
  heed::tensor<double, 4> q, a, k, v;
  std::optional<double> scale{}, agent_scale{};  // D^-1/2
  std::function<double(int, int, index_t, index_t)> agent_bias{}, query_bias{};
  std::optional<std::array<index_t, 4>> agent_bias_extents{}, query_bias_extents{};
  std::vector<index_t> kv_lengths{};  // M

  softmax_arguments of_agents() const {
    softmax_arguments call;
    call.scale = scale;
    call.bias = agent_bias;
    call.bias_extents = agent_bias_extents;
    if (!kv_lengths.empty())
      call.visible = [this](int b, int, int, int j) { return j < kv_lengths[static_cast<std::size_t>(b)]; };
    call.q_offset = 0;
    return call;
  }
  softmax_arguments of_queries() const {
    softmax_arguments call;
    call.scale = agent_scale;
    call.bias = query_bias;
    call.bias_extents = query_bias_extents;
    return call;
  }
};

struct agent_result {
  heed::tensor<double, 4> out, agent_values;
  heed::tensor<double, 3> agent_lse, lse;
};

inline agent_result agent(const agent_attention& x) {
  const softmax_result gathered = softmax<double>(x.a, x.k, x.v, x.of_agents());
  const softmax_result read = softmax<double>(x.q, x.a, gathered.out, x.of_queries());
  return {read.out, gathered.out, gathered.lse, read.lse};
}

struct agent_gradients {
  heed::tensor<double, 4> dq, da, dk, dv, dagent_bias, dquery_bias;
};

/// By the chain rule: from the queries to the agents' values, and on to the keys.
inline agent_gradients agent_backward(const agent_attention& x, const heed::tensor<double, 4>& dout) {
  const softmax_result gathered = softmax<double>(x.a, x.k, x.v, x.of_agents());
  const softmax_gradients read = softmax_backward<double>(x.q, x.a, gathered.out, dout, {}, x.of_queries());
  const softmax_gradients gather = softmax_backward<double>(x.a, x.k, x.v, read.dv, {}, x.of_agents());
  agent_gradients g{read.dq, read.dk, gather.dk, gather.dv, gather.dbias, read.dbias};
  for (index_t i = 0; i < g.da.size(); ++i) g.da.data()[i] += gather.dq.data()[i];
  return g;
}

}  // namespace reference
