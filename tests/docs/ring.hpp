#include <heed/core/in_process.hpp>
#include <heed/ring.hpp>

#include <cstdint>
#include <vector>

struct key_file {
  bool next();
  heed::view<const float, 4> keys(), values();
};

extern heed::in_process_transport& ranks;
extern heed::index_t N, M;
extern int rank;
extern heed::token_layout layout;
extern std::vector<std::int32_t> cu_seqlens;
extern heed::tensor<float, 4> q, k, v, out, dout, dq, dk, dv, all_q, all_out;
extern heed::tensor<float, 3> lse;
extern heed::tensor<float, 4> gates, state, writes, slot_gates;
extern heed::tensor<float, 1> slopes;
extern std::vector<heed::tensor<float, 4>> part_of_q, part_of_k, part_of_v, part_of_out;
extern key_file file;
bool cancelled(heed::index_t keys);
