#include <heed/rotary.hpp>

#include <vector>

extern heed::tensor<float, 4> q, k, dq, keys;
extern std::vector<int> positions;
extern int d;
