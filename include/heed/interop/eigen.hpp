/// Eigen matrices as views, and views as Eigen maps. No element is copied.
#pragma once

#include <heed/config.hpp>
#include <heed/core/error.hpp>
#include <heed/core/tensor.hpp>
#include <heed/core/view.hpp>

// As in simd/arch.hpp: with AVX-512 g++ 12 warns of its own intrinsics.
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <type_traits>
#include <utility>

HEED_BEGIN

/// Dense matrices, maps, references and blocks of Eigen: everything whose elements are in memory.
template <class M>
concept eigen_dense = std::is_base_of_v<Eigen::DenseBase<std::remove_cvref_t<M>>, std::remove_cvref_t<M>> &&
                      (std::remove_cvref_t<M>::Flags & Eigen::DirectAccessBit) != 0;

/// Rank 1.
template <class M>
concept eigen_vector = eigen_dense<M> && std::remove_cvref_t<M>::IsVectorAtCompileTime != 0;

/// Rank 2, rows contiguous.
template <class M>
concept eigen_row_major = eigen_dense<M> && !eigen_vector<M> && std::remove_cvref_t<M>::IsRowMajor != 0;

template <eigen_vector M>
struct view_traits<M> {
  using view_type = view<std::remove_pointer_t<decltype(std::declval<M&>().data())>, 1>;
  HEED_INLINE static view_type make(M& vector) noexcept {
    return view_type(vector.data(), {vector.size()}, {vector.innerStride()});
  }
};

template <eigen_row_major M>
struct view_traits<M> {
  using view_type = view<std::remove_pointer_t<decltype(std::declval<M&>().data())>, 2>;
  HEED_INLINE static view_type make(M& matrix) noexcept {
    return view_type(matrix.data(), {matrix.rows(), matrix.cols()}, {matrix.outerStride(), matrix.innerStride()});
  }
};

HEED_END

HEED_ARCH_BEGIN

namespace detail {

/// A temporary that owns its elements takes them along.
template <class M>
inline constexpr bool elements_outlive_call =
    std::is_lvalue_reference_v<M> ||
    !std::is_base_of_v<Eigen::PlainObjectBase<std::remove_cvref_t<M>>, std::remove_cvref_t<M>>;

}  // namespace detail

/// The view of a row-major matrix [rows, cols], or of a vector [size]: of constants if the matrix is constant.
///
///     using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
///     heed::view<float, 2> v = heed::as_view(m);
///
/// m  Eigen::Matrix, Array, Map, Ref or a block of one, any outer stride. It must outlive the view.
template <class M>
auto as_view(M&& m) {
  static_assert(eigen_dense<M>, "heed::as_view: needs a dense Eigen object whose elements are in memory");
  if constexpr (eigen_dense<M>) {
    static_assert(eigen_vector<M> || eigen_row_major<M>,
                  "heed::as_view: the matrix must be row-major: Eigen::Matrix<T, rows, cols, Eigen::RowMajor>");
    static_assert(detail::elements_outlive_call<M&&>,
                  "heed::as_view: the matrix is a temporary, the view would outlive it");
    if constexpr (eigen_vector<M> || eigen_row_major<M>) return view_traits<std::remove_reference_t<M>>::make(m);
  }
}

/// The heads of a row-major matrix of tokens, as operators take them: token t of batch entry b is row b N + t, head h
/// is columns h D .. (h + 1) D - 1 of it.
///
///     heed::softmax_forward(heed::as_heads(q, H), heed::as_heads(k, G), heed::as_heads(v, G), heed::as_heads(out, H));
///
/// tokens  [batch * N, heads * D]  Eigen::Matrix, Map, Ref or a block of one; must outlive the view
/// result  [batch, heads, N, D]    view of the same elements
/// Throws heed::invalid_argument: heads or batch < 1 or no divisor of the columns or rows.
template <class M>
auto as_heads(M&& tokens, index_t heads, index_t batch = 1) {
  static_assert(eigen_dense<M> && !eigen_vector<M>,
                "heed::as_heads: needs a dense Eigen matrix whose elements are in memory");
  if constexpr (eigen_dense<M> && !eigen_vector<M>) {
    static_assert(eigen_row_major<M>,
                  "heed::as_heads: the matrix must be row-major: Eigen::Matrix<T, rows, cols, Eigen::RowMajor>");
    static_assert(detail::elements_outlive_call<M&&>,
                  "heed::as_heads: the matrix is a temporary, the view would outlive it");
    if constexpr (eigen_row_major<M>) {
      const auto rows = view_traits<std::remove_reference_t<M>>::make(tokens);
      const detail::checker check("as_heads");
      check.require(heads >= 1 && rows.extent(1) % (heads >= 1 ? heads : 1) == 0, "heads",
                    "a divisor of the matrix's columns", heads);
      check.require(batch >= 1 && rows.extent(0) % (batch >= 1 ? batch : 1) == 0, "batch",
                    "a divisor of the matrix's rows", batch);
      const index_t N = rows.extent(0) / batch, D = rows.extent(1) / heads;
      return view<typename decltype(rows)::element_type, 4>(
          rows.data(), {batch, heads, N, D}, {N * rows.stride(0), D * rows.stride(1), rows.stride(0), rows.stride(1)});
    }
  }
}

/// A view [rows, cols] as a row-major Eigen map, of constants if the view is.
/// Throws heed::invalid_argument: a negative stride, a last axis of a stride other than 1.
template <class T>
auto as_eigen(const view<T, 2>& v) {
  using matrix = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using map = Eigen::Map<std::conditional_t<std::is_const_v<T>, const matrix, matrix>, 0, Eigen::OuterStride<>>;
  const detail::checker check("as_eigen");
  check.tensor(v, "view");
  check.require(v.stride(0) >= 0, "view", "rows of stride at least 0", v.stride(0));
  return map(v.data(), v.extent(0), v.extent(1), Eigen::OuterStride<>(v.stride(0)));
}

/// A view [size] as an Eigen map of a column vector.
/// Throws heed::invalid_argument: a negative stride.
template <class T>
auto as_eigen(const view<T, 1>& v) {
  using vector = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1>;
  using map = Eigen::Map<std::conditional_t<std::is_const_v<T>, const vector, vector>, 0, Eigen::InnerStride<>>;
  detail::checker("as_eigen").require(v.stride(0) >= 0, "view", "a stride of at least 0", v.stride(0));
  return map(v.data(), v.extent(0), Eigen::InnerStride<>(v.stride(0)));
}

template <class T, int Rank>
auto as_eigen(tensor<T, Rank>& t) {
  return as_eigen(t.all());
}
template <class T, int Rank>
auto as_eigen(const tensor<T, Rank>& t) {
  return as_eigen(t.all());
}
/// The map would outlive the tensor.
template <class T, int Rank>
void as_eigen(const tensor<T, Rank>&&) = delete;

HEED_ARCH_END
