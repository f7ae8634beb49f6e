#include "simd/lanes.hpp"

using namespace simd_test;

TEMPLATE_TEST_CASE("partial loads and stores touch the first lanes only", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    constexpr int lanes = pack<T, A>::lanes;
    for (int n = 1; n <= lanes; ++n) {
      // Exactly n elements: a sanitizer sees whoever reads or writes more.
      std::vector<T> from(static_cast<std::size_t>(n), T(3)), to(static_cast<std::size_t>(n), T(0));
      const auto loaded = pack<T, A>::load_first(from.data(), n);
      const auto lane = lanes_of(loaded);
      for (int i = 0; i < lanes; ++i) CHECK(lane[static_cast<std::size_t>(i)] == (i < n ? 3 : 0));
      loaded.store_first(to.data(), n);
      CHECK(to == from);
      std::vector<T> guarded(static_cast<std::size_t>(lanes) + 1, T(-7));
      pack<T, A>(T(1)).store_first(guarded.data(), n);
      for (int i = 0; i <= lanes; ++i) CHECK(guarded[static_cast<std::size_t>(i)] == (i < n ? 1 : -7));
    }
  });
}
