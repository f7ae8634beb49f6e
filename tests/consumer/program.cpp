// A user's first program; exits with 0 if the library works.
#include <heed/softmax.hpp>

int main() {
  heed::tensor<float, 4> q({1, 2, 3, 8}), k({1, 1, 5, 8}), v({1, 1, 5, 4}), out({1, 2, 3, 4});
  for (float& x : v) x = 1;
  heed::softmax_forward(q, k, v, out);
  return out(0, 1, 2, 3) == 1 ? 0 : 1;
}
