#include "support/catch.hpp"

#if __has_include(<Eigen/Core>)

#include <heed/interop/eigen.hpp>
#include <heed/rotary.hpp>
#include <heed/softmax.hpp>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

using heed::as_eigen;
using heed::as_heads;
using heed::as_view;
using heed::view;

namespace {

template <class T>
using matrix_of = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using matrix = matrix_of<float>;

/// Element (i, j) is 100 i + j.
matrix numbered(int rows, int cols) {
  matrix m(rows, cols);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j) m(i, j) = static_cast<float>(100 * i + j);
  return m;
}

}  // namespace

TEST_CASE("a row-major matrix is a view of its elements") {
  matrix m = numbered(3, 4);
  const auto v = as_view(m);
  STATIC_REQUIRE(std::is_same_v<decltype(v), const view<float, 2>>);
  CHECK(v.extent(0) == 3);
  CHECK(v.extent(1) == 4);
  CHECK(v(2, 3) == 203);
  v(0, 1) = -1;
  CHECK(m(0, 1) == -1);

  const matrix constant = m;
  STATIC_REQUIRE(std::is_same_v<decltype(as_view(constant)), view<const float, 2>>);
  CHECK(as_view(constant).data() == constant.data());

  Eigen::Matrix<double, 2, 3, Eigen::RowMajor> fixed;
  fixed << 1, 2, 3, 4, 5, 6;
  CHECK(as_view(fixed)(1, 0) == 4);
  Eigen::Array<double, 2, 3, Eigen::RowMajor> array = fixed.array();
  CHECK(as_view(array)(1, 2) == 6);
}

TEST_CASE("maps, references and blocks keep their strides") {
  matrix m = numbered(6, 8);
  const auto block = as_view(m.block(1, 2, 3, 4));
  CHECK(block.extent(0) == 3);
  CHECK(block.stride(0) == 8);
  CHECK(block(2, 3) == 305);

  Eigen::Map<matrix, 0, Eigen::OuterStride<>> map(m.data(), 3, 5, Eigen::OuterStride<>(16));
  const auto mapped = as_view(map);
  STATIC_REQUIRE(std::is_same_v<decltype(mapped), const view<float, 2>>);
  CHECK(mapped(1, 4) == 204);

  Eigen::Ref<matrix, 0, Eigen::OuterStride<>> ref = m.rightCols(3);
  CHECK(as_view(ref).stride(0) == 8);
  as_view(ref)(0, 0) = -5;
  CHECK(m(0, 5) == -5);
  const Eigen::Ref<const matrix, 0, Eigen::OuterStride<>> constant = m.rightCols(3);
  STATIC_REQUIRE(std::is_same_v<decltype(as_view(constant)), view<const float, 2>>);
  CHECK(as_view(constant).data() == m.data() + 5);
}

TEST_CASE("vectors are views of rank 1") {
  Eigen::VectorXd column = Eigen::VectorXd::LinSpaced(5, 0, 4);
  Eigen::RowVectorXf row = Eigen::RowVectorXf::Ones(3);
  STATIC_REQUIRE(std::is_same_v<decltype(as_view(column)), view<double, 1>>);
  CHECK(as_view(column)[4] == 4);
  CHECK(as_view(row).extent(0) == 3);
  matrix m = numbered(3, 4);
  const auto strided = as_view(m.col(1));
  CHECK(strided.stride(0) == 4);
  CHECK(strided[2] == 201);
}

TEST_CASE("heads are column blocks of a token matrix") {
  matrix m = numbered(6, 8);
  const auto heads = as_heads(m, 2);
  STATIC_REQUIRE(std::is_same_v<decltype(heads), const view<float, 4>>);
  CHECK(heads.extent(0) == 1);
  CHECK(heads.extent(1) == 2);
  CHECK(heads.extent(2) == 6);
  CHECK(heads.extent(3) == 4);
  CHECK(heads(0, 1, 5, 2) == 506);

  const auto batched = as_heads(m, 4, 3);
  CHECK(batched.extent(0) == 3);
  CHECK(batched.extent(2) == 2);
  CHECK(batched(2, 3, 1, 1) == 507);

  const matrix& constant = m;
  STATIC_REQUIRE(std::is_same_v<decltype(as_heads(constant, 2)), view<const float, 4>>);
  // One matrix with queries, keys and values side by side.
  const auto keys = as_heads(m.middleCols(2, 4), 2);
  CHECK(keys(0, 1, 3, 1) == 305);
  CHECK(keys.stride(2) == 8);
}

TEST_CASE("heads must divide the columns, the batch the rows") {
  matrix m = numbered(6, 8);
  CHECK_THROWS_WITH(as_heads(m, 3), "heed::as_heads: heads: expected a divisor of the matrix's columns, got 3");
  CHECK_THROWS_WITH(as_heads(m, 0), "heed::as_heads: heads: expected a divisor of the matrix's columns, got 0");
  CHECK_THROWS_WITH(as_heads(m, -2), "heed::as_heads: heads: expected a divisor of the matrix's columns, got -2");
  CHECK_THROWS_WITH(as_heads(m, 2, 4), "heed::as_heads: batch: expected a divisor of the matrix's rows, got 4");
  CHECK_THROWS_WITH(as_heads(m, 2, 0), "heed::as_heads: batch: expected a divisor of the matrix's rows, got 0");
  matrix empty(0, 8);
  CHECK(as_heads(empty, 2).extent(2) == 0);
}

TEST_CASE("views become maps") {
  heed::tensor<float, 2> t({3, 4});
  for (int i = 0; i < 12; ++i) t.data()[i] = static_cast<float>(i);
  auto map = as_eigen(t);
  CHECK(map(2, 3) == 11);
  map(1, 1) = -1;
  CHECK(t(1, 1) == -1);

  const auto part = as_eigen(t.all().slice(1, 1, 3));
  CHECK(part.rows() == 3);
  CHECK(part.cols() == 2);
  CHECK(part.outerStride() == 4);
  CHECK(part(2, 0) == 9);

  const heed::tensor<float, 2>& constant = t;
  CHECK(as_eigen(constant).sum() == Catch::Approx(60));
  STATIC_REQUIRE((decltype(as_eigen(constant))::Flags & Eigen::LvalueBit) == 0);
  STATIC_REQUIRE((decltype(as_eigen(t))::Flags & Eigen::LvalueBit) != 0);

  heed::tensor<double, 1> one({3});
  one(2) = 5;
  CHECK(as_eigen(one)(2) == 5);
  CHECK(as_eigen(view<float, 1>(t.data(), {3}, {4}))(2) == 8);

  // A slice of a rank-4 tensor, written through Eigen.
  heed::tensor<float, 4> out({1, 2, 3, 4});
  as_eigen(out.all()[0][1]).setConstant(2);
  CHECK(out(0, 1, 2, 3) == 2);
  CHECK(out(0, 0, 2, 3) == 0);
}

TEST_CASE("views that no map can describe are refused") {
  float data[12] = {};
  CHECK_THROWS_WITH(as_eigen(view<float, 2>(data, {3, 4}, {1, 3})),
                    "heed::as_eigen: view: expected a last axis of stride 1, got 3");
  CHECK_THROWS_WITH(as_eigen(view<float, 2>(data + 8, {3, 4}, {-4, 1})),
                    "heed::as_eigen: view: expected rows of stride at least 0, got -4");
  CHECK_THROWS_WITH(as_eigen(view<float, 1>(data + 8, {3}, {-4})),
                    "heed::as_eigen: view: expected a stride of at least 0, got -4");
}

TEST_CASE("only what is row-major and in memory can be viewed") {
  STATIC_REQUIRE(heed::eigen_row_major<matrix&>);
  STATIC_REQUIRE(!heed::eigen_row_major<Eigen::MatrixXf&>);
  STATIC_REQUIRE(heed::eigen_dense<Eigen::MatrixXf&>);
  STATIC_REQUIRE(!heed::eigen_dense<decltype(std::declval<matrix&>() * 2.0f)>);
  STATIC_REQUIRE(heed::eigen_row_major<decltype(std::declval<Eigen::MatrixXf&>().transpose())>);
  STATIC_REQUIRE(heed::writable<matrix&, 2>);
  STATIC_REQUIRE(!heed::writable<const matrix&, 2>);
  STATIC_REQUIRE(!heed::writable<Eigen::MatrixXf&, 2>);
}

TEST_CASE("positions may be an Eigen vector") {
  matrix m = numbered(3, 4);
  matrix expected = m;
  const int list[] = {4, 0, -9};
  heed::rotary_forward(as_heads(expected, 1), list, as_heads(expected, 1));
  Eigen::VectorXi positions(3);
  positions << 4, 0, -9;
  heed::rotary_forward(as_heads(m, 1), positions, as_heads(m, 1));
  CHECK(m == expected);
}

TEST_CASE("softmax over Eigen matrices is softmax by Eigen") {
  const int N = 9, M = 13, H = 4, G = 2, D = 6;
  std::srand(1);
  const matrix q = matrix::Random(N, H * D), kv = matrix::Random(M, 2 * G * D);
  matrix out = matrix::Constant(N, H * D, std::numeric_limits<float>::quiet_NaN());
  heed::softmax_forward(as_heads(q, H), as_heads(kv.leftCols(G * D), G), as_heads(kv.rightCols(G * D), G),
                        as_heads(out, H));
  for (int h = 0; h < H; ++h) {
    const int g = h / (H / G);
    matrix weights = (q.middleCols(h * D, D) * kv.middleCols(g * D, D).transpose() / std::sqrt(float(D))).array().exp();
    weights.array().colwise() /= weights.rowwise().sum().array().eval();
    const matrix expected = weights * kv.middleCols((G + g) * D, D);
    CHECK((out.middleCols(h * D, D) - expected).cwiseAbs().maxCoeff() < 2e-6f);
  }
}

#endif
