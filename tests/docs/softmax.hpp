#include <heed/cache.hpp>
#include <heed/softmax.hpp>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

extern heed::index_t B, H, N, D, E;
extern const float* data;
extern heed::tensor<float, 4> q, k, v, out, k_prefix, v_prefix, k_own, v_own, kp, vp, out_a, out_b, dout, dq, dk, dv;
extern heed::tensor<float, 3> lse, lse_a, lse_b;
extern heed::tensor<float, 1> w;
extern heed::tensor<float, 4> weights, top_weights;
extern heed::tensor<float, 3> entropy, received;
extern heed::tensor<std::int32_t, 4> top_keys;
extern heed::tensor<std::int32_t, 3> argmax;
extern std::vector<int> rows;
extern heed::softmax_segment<float> prefix, own;
extern heed::paged_sizes sizes;
extern heed::paged_cache<heed::bfloat16> cache;
extern heed::tensor<float, 3> prompt_k, prompt_v, other_k, other_v;
extern heed::tensor<float, 4> prompts_q, prompts_out;
extern std::vector<int> cu, lengths;
