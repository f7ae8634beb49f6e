// What the blocks of docs/linear_decay_and_slots.md are about.
#pragma once

#include <heed/linear.hpp>

#include <cmath>

constexpr heed::index_t H = 4, D = 8;
inline heed::index_t layer = 0, layers = 2;
inline heed::tensor<float, 4> q, k, v, s, g, f, out, q1, k1, v1, s1, out1, scores, keys, values, head_states;
inline heed::tensor<float, 4> dout, dq, dk, dv, ds, dg, df;
inline heed::tensor<float, 1> slopes, a, d_skip;
inline heed::tensor<float, 2> dslopes, da, dd_skip;
inline heed::tensor<float, 3> log_sums, dt, dt_t, ddt;
inline heed::tensor<float, 4> x, b, c, y, x_t, b_t, c_t, y_t, dy, dx, db, dc;
