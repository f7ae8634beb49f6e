#include <heed/local.hpp>

extern heed::tensor<float, 4> q, k, v, out, dout, dq, dk, dv;
extern heed::tensor<float, 3> lse;
extern heed::tensor<float, 2> table, dtable;
