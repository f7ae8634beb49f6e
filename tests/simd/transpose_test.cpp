// Squares of registers, transposed: which number ends up where, exactly.
#include "support/arch.hpp"
#include "support/catch.hpp"

#include <heed/simd/transpose.hpp>

using heed::pack;

namespace {

template <class T, class A>
void check_transpose() {
  using P = pack<T, A>;
  constexpr int n = P::lanes;
  alignas(64) T lanes[n];
  P rows[n];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) lanes[j] = T(n * i + j);
    rows[i] = P::load_aligned(lanes);
  }
  heed::detail::transpose(rows);
  for (int i = 0; i < n; ++i) {
    rows[i].store_aligned(lanes);
    CAPTURE(A::name(), n, i);
    for (int j = 0; j < n; ++j) CHECK(lanes[j] == T(n * j + i));
  }
}

}  // namespace

TEST_CASE("rows become columns on every instruction set") {
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    check_transpose<float, A>();
    check_transpose<double, A>();
  });
}
