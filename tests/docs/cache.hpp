#include <heed/cache.hpp>

#include <cstdint>

extern heed::index_t B, G, D, P;
extern float *k_data, *v_data;
extern heed::tensor<float, 3> prompt_k, prompt_v;
extern heed::tensor<float, 4> k, v, k_scales, v_scales, k_pool, v_pool;
extern heed::tensor<std::int8_t, 4> k_codes, v_codes;
extern heed::tensor<std::int32_t, 1> indptr, indices, last_page_len;
