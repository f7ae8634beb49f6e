#include <heed/core/tensor.hpp>
#include <heed/ops/linear/fastmax.hpp>
#include <heed/ops/linear/linear_backward.hpp>
#include <heed/ops/linear/linear_forward.hpp>
#include <heed/ops/linear/linear_step.hpp>

extern heed::tensor<float, 4> q, k, v, out, q1, k1, v1, out1, dout, dq, dk, dv, state;
extern heed::tensor<float, 3> sum, denominator;
