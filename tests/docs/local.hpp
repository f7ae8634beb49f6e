#include <heed/local.hpp>
#include <heed/softmax.hpp>

#include <cstdint>
#include <vector>

extern heed::tensor<float, 4> q, k, v, out, dout, dq, dk, dv;
extern heed::tensor<float, 3> lse;

extern heed::tensor<float, 3> h_t, h_s, context, queries, keys, dcontext, dh_t, dh_t_too, dh_s, dqueries, dkeys;
extern heed::tensor<float, 2> w_a, w_1, w_2, w_p, dw_1, dw_p, step_lse, positions, dpositions;
extern heed::tensor<float, 1> bias, v_a, v_p, dbias, dv_a, dv_p;
extern std::vector<std::int32_t> lengths;

extern heed::tensor<float, 3> items, means, dmeans, ditems;
extern heed::tensor<std::uint8_t, 2> is_item;
extern std::vector<std::int32_t> begin, end;
extern heed::tensor<float, 2> table, dtable;
