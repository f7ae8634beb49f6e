#include "simd/lanes.hpp"

using namespace simd_test;

TEMPLATE_TEST_CASE("packs compute lane by lane what numbers do", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const operands<T, A> o;
    CHECK(lanes_of(o.pa + o.pb) == each<T>(std::plus<>(), o.a, o.b));
    CHECK(lanes_of(o.pa - o.pb) == each<T>(std::minus<>(), o.a, o.b));
    CHECK(lanes_of(o.pa * o.pb) == each<T>(std::multiplies<>(), o.a, o.b));
    CHECK(lanes_of(o.pa / (o.pb + 10)) == each<T>([](T x, T y) { return x / (y + 10); }, o.a, o.b));
    CHECK(lanes_of(-o.pa) == each<T>(std::negate<>(), o.a));
    CHECK(lanes_of(min(o.pa, o.pb)) == each<T>([](T x, T y) { return std::min(x, y); }, o.a, o.b));
    CHECK(lanes_of(max(o.pa, o.pb)) == each<T>([](T x, T y) { return std::max(x, y); }, o.a, o.b));
    CHECK(lanes_of(abs(o.pa)) == each<T>([](T x) { return std::fabs(x); }, o.a));
    CHECK(lanes_of(sqrt(abs(o.pa))) == each<T>([](T x) { return std::sqrt(std::fabs(x)); }, o.a));
    CHECK(lanes_of(fma(o.pa, o.pb, o.pa)) == each<T>([](T x, T y) { return std::fma(x, y, x); }, o.a, o.b));
    CHECK(lanes_of(2 - o.pa * 0.5f + 1u) == each<T>([](T x) { return 2 - x / 2 + 1; }, o.a));
    pack<T, A> sum = o.pa;
    sum += o.pb;
    sum *= 2;
    sum -= o.pa;
    sum /= 4;
    CHECK(lanes_of(sum) == each<T>([](T x, T y) { return ((x + y) * 2 - x) / 4; }, o.a, o.b));
  });
}

TEMPLATE_TEST_CASE("min and max give their second operand where one is NaN", "", float, double) {
#if !defined(__aarch64__)
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    const pack<T, A> nan(std::numeric_limits<T>::quiet_NaN()), two(2);
    CHECK(all(max(nan, two) == two));
    CHECK(all(min(nan, two) == two));
    CHECK_FALSE(any(max(two, nan) == max(two, nan)));
    CHECK_FALSE(any(min(two, nan) == min(two, nan)));
  });
#endif
}

TEMPLATE_TEST_CASE("reductions", "", float, double) {
  using T = TestType;
  support::for_each_arch([](auto arch) {
    using A = decltype(arch);
    CAPTURE(A::name());
    for (int where = 0; where < pack<T, A>::lanes; ++where) {
      std::vector<T> lane(pack<T, A>::lanes, T(1));
      lane[static_cast<std::size_t>(where)] = T(5);
      CHECK(reduce_max(pack<T, A>::load(lane.data())) == 5);
      CHECK(reduce_add(pack<T, A>::load(lane.data())) == static_cast<T>(pack<T, A>::lanes + 4));
      lane[static_cast<std::size_t>(where)] = T(-5);
      CHECK(reduce_min(pack<T, A>::load(lane.data())) == -5);
    }
  });
}
