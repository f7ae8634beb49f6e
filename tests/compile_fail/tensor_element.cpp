// expected: heed::tensor: elements must be trivially copyable
#include <heed/core/tensor.hpp>

#include <string>

#ifdef HEED_COMPILE_FAIL
heed::tensor<std::string, 2> t;
#else
heed::tensor<double, 2> t;
#endif
