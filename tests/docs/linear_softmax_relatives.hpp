#include <heed/linear.hpp>

extern heed::tensor<float, 4> q, a, k, v, out, u, dout, dq, da, dk, dv;
extern heed::tensor<float, 4> key_map, query_map, b1, b2, weight;
extern heed::tensor<float, 3> key_max, key_sum, agent_lse, lse;
extern heed::tensor<float, 3> key_rows, key_columns, query_rows, query_columns;
extern heed::tensor<float, 2> bias;
