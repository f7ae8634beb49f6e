// Two queries over three keys, causal.
#include <heed/softmax.hpp>

#include <cmath>
#include <cstdio>

int main() {
  // [batch, heads, tokens, features]
  heed::tensor<float, 4> q({1, 1, 2, 1}), k({1, 1, 3, 1}), v({1, 1, 3, 1}), out({1, 1, 2, 1});
  for (float& x : q) x = 1;
  for (int j = 0; j < 3; ++j) k(0, 0, j, 0) = std::log(j + 1.0f);  // key j weighs exp(q . k) = j + 1
  for (int j = 0; j < 3; ++j) v(0, 0, j, 0) = 6.0f * (j + 1.0f);

  heed::softmax_forward(q, k, v, out, {}, heed::causal{});

  // The last query stands at the last key: (1 * 6 + 2 * 12) / 3 and (1 * 6 + 2 * 12 + 3 * 18) / 6.
  std::printf("out = %g %g\n", out(0, 0, 0, 0), out(0, 0, 1, 0));
}
