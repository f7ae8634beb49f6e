/// The calls of golden.txt.
#pragma once

#include "golden/calls.hpp"

namespace golden {

/// Tensors q, k, v, dout, out, lse, dq, dk, dv; where the call has them bias, slopes, sink, their gradients dbias,
/// dslopes, dsink, and dlse. Numbers that are not the default: scale, softcap, causal, window_left, window_right,
/// q_offset, kv_offset. Slopes are ALiBi's: z = s - slopes[h] (p - t).
using softmax_case = stored_call;

inline std::vector<softmax_case> read_softmax_cases() { return read_calls("softmax_backward/golden.txt"); }

}  // namespace golden
