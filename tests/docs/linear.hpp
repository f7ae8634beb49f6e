#include <heed/linear.hpp>

extern heed::tensor<float, 4> q, k, v, g, s, out, q1, k1, v1, g1, s1, out1, dout, dq, dk, dv, dg, state, keys, values;
