// Attention over Eigen matrices: tokens in rows, heads side by side in the columns.
#include <heed/interop/eigen.hpp>
#include <heed/softmax.hpp>

#include <iostream>

int main() {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const int tokens = 4, heads = 2, features = 8;
  const matrix x = matrix::Random(tokens, heads * features);
  // Equal keys get equal weights, so each output is the mean of the values seen so far.
  const matrix k = matrix::Ones(tokens, heads * features);
  matrix v = matrix::Zero(tokens, heads * features);
  v.rightCols(features).colwise() = Eigen::VectorXf::LinSpaced(tokens, 0, 3);

  matrix out(tokens, heads * features);
  heed::softmax_forward(heed::as_heads(x, heads), heed::as_heads(k, heads), heed::as_heads(v, heads),
                        heed::as_heads(out, heads), {.window_right = 0});

  std::cout << "head 0, expected 0 0 0 0:     " << out.col(0).transpose() << '\n'
            << "head 1, expected 0 0.5 1 1.5: " << out.col(features).transpose() << '\n';
}
