#include <heed/softmax.hpp>

#include <cstdint>
#include <vector>

extern heed::tensor<float, 4> q, k, v, out;
extern heed::tensor<float, 3> lse;
extern std::vector<std::int32_t> ids;
extern float slope;
