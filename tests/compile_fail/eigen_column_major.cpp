// expected: heed::as_heads: the matrix must be row-major: Eigen::Matrix<T, rows, cols, Eigen::RowMajor>
#include <heed/interop/eigen.hpp>

#ifdef HEED_COMPILE_FAIL
constexpr int order = Eigen::ColMajor;
#else
constexpr int order = Eigen::RowMajor;
#endif

auto call(Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, order>& tokens) { return heed::as_heads(tokens, 4); }
