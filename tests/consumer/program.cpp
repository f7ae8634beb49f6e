// A user's first program; exits with 0 if the library works.
#include <heed/core/tensor.hpp>
#include <heed/version.hpp>

int main() {
  heed::tensor<float, 2> t({2, 3});
  t(1, 2) = 1;
  return t.size() == 6 && t(1, 2) == 1 && HEED_VERSION_MAJOR >= 0 ? 0 : 1;
}
